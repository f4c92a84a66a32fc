"""A plan's faults depend only on its entries, its seed, the round and the client."""

from collections import Counter
from typing import Any

import pytest

from fedmeta.errors import ConfigError
from fedmeta.federation.faults import Fault, FaultOptions, FaultPlan, read_faults
from fedmeta.tasks import Population

TEN = Population(10)


def plan(rounds: int = 100, **table: Any) -> FaultPlan:
    return read_faults(FaultOptions(**table), TEN, rounds, seed=3)


def kinds(faults: FaultPlan, client: int, rounds: int) -> list[str | None]:
    met = [faults.due(round_, client) for round_ in range(1, rounds + 1)]
    return [fault.kind if fault else None for fault in met]


def test_an_entry_applies_only_to_its_clients_in_its_rounds() -> None:
    faults = plan(entries=[{"kind": "late", "clients": [2], "rounds": [3], "seconds": 5.0}])
    found = {(r, c): faults.due(r, c) for r in range(1, 6) for c in range(10) if faults.due(r, c)}
    assert found == {(3, 2): Fault("late", seconds=5.0)}


def test_draws_do_not_depend_on_earlier_calls() -> None:
    table = {"rates": {"nan": 0.2, "late": 0.2, "vanish": 0.1, "move": 0.1}}
    forwards, late_start = plan(**table), plan(**table)
    seen = [[(forwards.due(r, c), forwards.moves(r, c)) for c in range(10)] for r in range(1, 31)]
    for round_ in (30, 17, 18, 2):
        for client in (9, 0, 4):
            found = late_start.due(round_, client), late_start.moves(round_, client)
            assert found == seen[round_ - 1][client]


def test_rates_are_chances_and_delays_have_their_mean() -> None:
    faults = plan(rates={"late": 0.3, "nan": 0.1}, seconds=50.0)
    met = [faults.due(r, c) for r in range(1, 501) for c in range(10)]
    counts = Counter(fault.kind if fault else None for fault in met)
    # 5,000 draws: four standard deviations are 0.026 and 0.017.
    assert counts["late"] / 5000 == pytest.approx(0.3, abs=0.026)
    assert counts["nan"] / 5000 == pytest.approx(0.1, abs=0.017)
    delays = [fault.seconds for fault in met if fault and fault.kind == "late"]
    assert sum(delays) / len(delays) == pytest.approx(50.0, rel=4 / len(delays) ** 0.5)


def test_the_seed_is_the_runs_unless_the_plan_has_its_own() -> None:
    rates = {"rates": {"nan": 0.5}}
    own, other = plan(seed=8, **rates), read_faults(FaultOptions(**rates), TEN, 100, seed=8)  # type: ignore[arg-type]
    assert kinds(own, 1, 50) == kinds(other, 1, 50)
    assert kinds(own, 1, 50) != kinds(plan(**rates), 1, 50)


def test_an_absent_client_has_no_other_fault_until_it_returns() -> None:
    faults = plan(
        entries=[
            {"kind": "vanish", "clients": [1], "rounds": [2], "away": 3},
            {"kind": "nan", "clients": [1], "rounds": [3, 5]},
        ]
    )
    assert kinds(faults, 1, 6) == [None, "vanish", "vanish", "vanish", "nan", None]
    assert faults.moves(6, 1) == 0


def test_a_client_that_moves_returns_with_another_node_id() -> None:
    faults = plan(entries=[{"kind": "move", "clients": [1], "rounds": [2, 4, 6], "away": 2}])
    assert kinds(faults, 1, 9) == [None, *["move"] * 6, None, None]
    assert [faults.moves(round_, 1) for round_ in range(1, 10)] == [0, 0, 0, 1, 1, 2, 2, 3, 3]


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"kind": "lat"}, "faults.entries.0.kind: unknown fault 'lat': did you mean 'late'?"),
    ({"clients": [10]}, "faults.entries.0.clients: client 10 is not one of the 10 that train"),
    ({"rounds": [0]}, "faults.entries.0.rounds: round 0 is not between 1 and 100"),
    ({"rounds": [101]}, "faults.entries.0.rounds: round 101 is not between 1 and 100"),
    ({"secnds": 3.0}, "unknown key 'faults.entries.0.secnds': did you mean 'faults.entries.0.seconds'?"),
    ({"seconds": 3.0}, "faults.entries.0.seconds: only 'late' has seconds, not 'nan'"),
    ({"away": 3}, "faults.entries.0.away: only 'vanish' and 'move' have it, not 'nan'"),
    ({"rounds": [1, 1]}, "faults.entries.0: client 1 already has a fault in round 1: 'nan'"),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_a_mistake_in_an_entry_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(entries=[{"kind": "nan", "clients": [1], "rounds": [1]} | change])
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"twise": 0.1}, "faults.rates: unknown fault 'twise': did you mean 'twice'?"),
        ({"nan": 1.5}, "faults.rates.nan: must be between 0 and 1 (got 1.5)"),
        (
            {"nan": 0.8, "late": 0.4},
            "faults.rates: must sum to at most 1, as a client meets one fault at a time (got 1.2)",
        ),
    ],
)
def test_a_mistake_in_the_rates_is_refused_in_one_line(rates: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(rates=rates)
    assert str(caught.value) == message
