from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmeta.errors import ConfigError
from fedmeta.tasks.partition import PartitionOptions, Receivers, deal, task_shares

Scheme = Literal["natural", "iid", "dirichlet"]


def units(*sizes: int) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)


def shares(parts: list[np.ndarray], of: np.ndarray) -> np.ndarray:
    return np.array([np.bincount(of[part], minlength=of.max() + 1) for part in parts])


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    clients=st.integers(1, 12),
    scheme=st.sampled_from(["natural", "iid", "dirichlet"]),
    seed=st.integers(0, 99),
)
def test_every_item_is_dealt_exactly_once_or_the_deal_is_refused(
    sizes: list[int], clients: int, scheme: Scheme, seed: int
) -> None:
    of = units(*sizes)
    try:
        parts = deal(
            of, Receivers(clients), PartitionOptions(partition=scheme), np.random.default_rng(seed)
        )
    except ConfigError:
        assert clients > 1
        return
    assert len(parts) == clients
    assert all(len(part) for part in parts)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(of)))


def test_iid_deals_evenly() -> None:
    parts = deal(
        units(10, 13), Receivers(5), PartitionOptions(partition="iid"), np.random.default_rng(0)
    )
    assert sorted(len(part) for part in parts) == [4, 4, 5, 5, 5]


def test_natural_gives_whole_units_to_one_client_each() -> None:
    of = units(40, 24, 26, 22, 47, 24)
    for clients in (2, 3, 6):
        held = shares(deal(of, Receivers(clients), PartitionOptions(), np.random.default_rng(1)), of)
        assert ((held > 0).sum(0) == 1).all()


def test_natural_with_few_clients_evens_out_whole_units() -> None:
    # By hand: 8 | 7, then 6 joins 7, 5 joins 8, and 4 joins either side of 13: 17 and 13.
    of = units(4, 5, 6, 7, 8)
    parts = deal(of, Receivers(2), PartitionOptions(), np.random.default_rng(0))
    assert sorted(len(part) for part in parts) == [13, 17]


def test_a_small_alpha_is_more_uneven_than_a_large_one() -> None:
    of = units(*[200] * 10)

    def unevenness(alpha: float) -> float:
        options = PartitionOptions(partition="dirichlet", alpha=alpha)
        return float(shares(deal(of, Receivers(4), options, np.random.default_rng(0)), of).std())

    # Shares of Dir(alpha, .., alpha) over k have variance (k - 1) / (k^2 (k alpha + 1)): alpha = 0.5
    # and k = 4 give a standard deviation of 0.25, or 50 of 200 items; alpha = 1000 gives 0.0068, or 1.4.
    assert unevenness(0.5) == pytest.approx(50, rel=0.25)
    assert unevenness(1000.0) == pytest.approx(1.4, rel=0.4)


@pytest.mark.parametrize("alpha", [1e20, 3e101, 1e306, 1e308, 1.79e308])
def test_with_a_large_alpha_every_client_has_an_equal_share(alpha: float) -> None:
    options = PartitionOptions(partition="dirichlet", alpha=alpha)
    rng = np.random.default_rng(4)
    table = task_shares(7, options, rng)
    assert table is not None
    assert np.allclose(table, 1 / 7, rtol=1e-9)
    # Units of 70 items for 7 clients: exactly ten of each unit for everybody.
    of = units(70, 140)
    assert shares(deal(of, Receivers(7), options, rng), of).tolist() == [[10, 20]] * 7


@pytest.mark.parametrize("alpha", [5e-324, 1e-308, 1e-300, 1e-40])
def test_with_a_small_alpha_every_unit_is_whole_and_any_client_may_have_it(alpha: float) -> None:
    options = PartitionOptions(partition="dirichlet", alpha=alpha)
    rng = np.random.default_rng(4)
    table = task_shares(5, options, rng)
    assert table is not None
    assert np.sort(table, axis=1).tolist() == [[0.0] * 4 + [1.0]] * 5
    of = units(*[6] * 200)
    held = shares(deal(of, Receivers(5), options, rng), of)
    assert set(held.ravel().tolist()) == {0, 6}
    # 40 of the 200 units each; a deviation of 5.7.
    assert np.abs((held > 0).sum(1) - 40).max() < 5 * 5.7


@settings(deadline=None, max_examples=100)
@given(
    alpha=st.floats(min_value=0.0, exclude_min=True, allow_infinity=False), clients=st.integers(1, 40)
)
def test_shares_of_any_concentration_are_a_distribution(alpha: float, clients: int) -> None:
    options = PartitionOptions(partition="dirichlet", alpha=alpha)
    table = task_shares(clients, options, np.random.default_rng(0))
    assert table is not None
    assert np.isfinite(table).all()
    assert (table >= 0).all()
    assert np.allclose(table.sum(1), 1.0)


def test_small_units_in_even_shares_favour_no_client() -> None:
    options = PartitionOptions(partition="dirichlet", alpha=1000.0)
    parts = deal(units(*[2] * 600), Receivers(6), options, np.random.default_rng(1))
    # A sixth of 1,200 each; two at a time that go to different clients: a deviation of 11.5.
    assert max(abs(len(part) - 200) for part in parts) < 5 * 11.5


def test_each_client_gets_what_it_needs_at_least() -> None:
    options = PartitionOptions(partition="dirichlet", alpha=0.5)
    parts = deal(units(*[20] * 5), Receivers(6, at_least=8), options, np.random.default_rng(3))
    assert min(len(part) for part in parts) >= 8


@pytest.mark.parametrize(
    ("scheme", "clients", "at_least", "message"),
    [
        (
            "natural",
            4,
            1,
            "3 units each, as data.partition = 'natural' .*; use 3 or fewer, or set data.p",
        ),
        ("natural", 31, 1, "data.partition = 'natural' .*; use 3 or fewer"),
        (
            "iid",
            31,
            1,
            "^clients: 31 train clients need at least 1 of .* 30 items each; use 30 or fewer",
        ),
        ("iid", 7, 5, "use 6 or fewer"),
        ("dirichlet", 10, 3, r"data.partition = 'dirichlet' .*raise data.alpha \(now 0.01\)"),
        ("natural", 3, 10, "set data.partition to 'iid'"),
    ],
)
def test_more_clients_than_can_be_served_are_refused(
    scheme: Scheme, clients: int, at_least: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        deal(
            units(9, 10, 11),
            Receivers(clients, at_least),
            PartitionOptions(partition=scheme, alpha=0.01),
            np.random.default_rng(0),
        )


def test_held_out_clients_are_refused_by_their_own_key() -> None:
    receivers = Receivers(9, split="validation")
    with pytest.raises(
        ConfigError, match=r"^validation_clients: 9 validation clients need at least 1 of"
    ):
        deal(units(4, 4), receivers, PartitionOptions(partition="iid"), np.random.default_rng(0))


def test_no_clients_get_nothing() -> None:
    assert deal(units(3), Receivers(0), PartitionOptions(), np.random.default_rng(0)) == []


def test_the_same_generator_deals_the_same() -> None:
    options = PartitionOptions(partition="dirichlet")
    first, second = (
        deal(units(50, 50), Receivers(4), options, np.random.default_rng(5)) for _ in range(2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
