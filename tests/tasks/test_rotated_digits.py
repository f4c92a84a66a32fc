import numpy as np
import pytest
import torch

from fedmeta.tasks.rotated_digits import deal_by_class, turn


def test_turning_by_a_full_circle_in_small_steps_keeps_the_ink_in_the_middle() -> None:
    dot = torch.zeros(1, 1, 9, 9)
    dot[..., 4, 4] = 1.0
    for degrees in (0.0, 30.0, 77.0, 200.0):
        assert turn(dot, degrees)[0, 0, 4, 4] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("side", [8, 28])
def test_a_quarter_turn_is_that_of_the_array(side: int) -> None:
    page = torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(side))
    for quarters in range(4):
        expected = torch.rot90(page, quarters, (2, 3))
        torch.testing.assert_close(turn(page, 90.0 * quarters), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("clients", "counts"), [(3, [5, 4, 7]), (4, [1, 1, 10]), (7, [2, 9, 3])])
def test_items_are_dealt_evenly_in_all_and_by_class(clients: int, counts: list[int]) -> None:
    classes = np.repeat(np.arange(3), counts)
    owner = deal_by_class(classes, clients, np.random.default_rng(0))
    assert np.ptp(np.bincount(owner, minlength=clients)) <= 1
    for one in range(3):
        assert np.ptp(np.bincount(owner[classes == one], minlength=clients)) <= 1
