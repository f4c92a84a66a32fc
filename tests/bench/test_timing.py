"""Timing, with a fake clock."""

import pytest
import torch

from fedmeta.bench.result import ratio
from fedmeta.bench.timing import Timing, interleave, pinned


class Workshop:
    """A clock that only advances while a job runs, and a log of the jobs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turns: list[str] = []

    def job(self, name: str, *seconds: float):
        """A job that takes the given times, call by call, then the last one."""
        left = list(seconds)

        def work() -> None:
            self.turns.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return work


def test_functions_take_turns_after_two_calls_each_that_do_not_count():
    shop = Workshop()
    slow_start = shop.job("a", 9.0, 9.0, 1.0)
    timings = interleave({"a": slow_start, "b": shop.job("b", 2.0)}, 3, clock=lambda: shop.now)
    assert shop.turns == ["a", "a", "b", "b", "a", "b", "a", "b", "a", "b"]
    assert timings["a"].samples == (1000.0, 1000.0, 1000.0)
    assert timings["b"].samples == (2000.0, 2000.0, 2000.0)


def test_a_short_function_is_repeated_until_a_sample_is_long_enough():
    shop = Workshop()
    timings = interleave({"a": shop.job("a", 0.25)}, 2, clock=lambda: shop.now, sample_ms=1000.0)
    assert len(shop.turns) == 2 + 2 * 4
    assert timings["a"].samples == (250.0, 250.0)


def test_a_clock_too_coarse_to_see_a_call_still_yields_samples():
    timings = interleave({"a": lambda: None}, 2, clock=lambda: 0.0)
    assert timings["a"].samples == (0.0, 0.0)


def test_one_disturbed_sample_moves_neither_median_nor_quartiles_far():
    timing = Timing((1.0, 2.0, 3.0, 4.0, 1000.0))
    assert timing.median == 3.0
    assert timing.quartiles == (2.0, 4.0)
    assert Timing((7.0,)).quartiles == (7.0, 7.0)


def test_a_ratio_is_that_of_the_medians_and_its_spread_that_of_neighbouring_samples():
    # Pairs: 4/1, 4/2, 12/3 -> 4, 2, 4; their quartiles are 3 and 4.
    assert ratio(Timing((4.0, 4.0, 12.0)), Timing((1.0, 2.0, 3.0))) == (2.0, (3.0, 4.0))


def test_the_number_of_threads_is_put_back_even_after_an_error():
    before = torch.get_num_threads()
    seen = []

    @pinned(before + 1)
    def fail() -> None:
        seen.append(torch.get_num_threads())
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [before + 1]
    assert torch.get_num_threads() == before
