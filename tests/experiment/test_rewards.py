"""Runs that pay: the pot is shared, the result lists the rewards, and a resume pays the same."""

import json
from collections import Counter
from pathlib import Path

import pytest

from fedmeta.errors import ConfigError
from fedmeta.experiment import Config, RunFolder, resume, run
from fedmeta.experiment.client_totals import participants
from fedmeta.experiment.rows import CLIENTS, ClientRow
from tests.experiment.helpers import TINY, contents

POT = 100 * 10**6


def config(rule: str, **changes: object) -> Config:
    return Config(**TINY | {"incentives": {"rule": rule, "tasks": 4}} | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", ["equal", "tasks", "leave-one-out", "shapley", "cosine"])
def test_each_round_pays_no_more_than_its_pot_and_to_admitted_clients_alone(
    rule: str, tmp_path: Path
) -> None:
    result = run(config(rule), out=tmp_path / "run")
    paid: Counter[int] = Counter()
    for row in RunFolder.open(result.run).clients():
        assert row["admitted"] == (row["score"] is not None) == (row["reward"] is not None)
        paid[row["round"]] += row["reward"] or 0
    assert set(paid.values()) <= {0, POT}
    assert sum(one.earned for one in result.participants) == sum(paid.values()) > 0


def test_equal_pays_equally_and_to_the_last_unit(tmp_path: Path) -> None:
    result = run(config("equal", cohort=3, rounds=1), out=tmp_path / "run")
    # 100 tokens are 100,000,000 units: 33,333,333 each, and the unit that is left for the first.
    assert [one.earned for one in result.participants] == [33_333_334, 33_333_333, 33_333_333]


@pytest.mark.parametrize("rule", ["tasks", "shapley"])
def test_a_run_cut_short_and_extended_pays_as_the_undisturbed_one(rule: str, tmp_path: Path) -> None:
    whole = run(config(rule), out=tmp_path / "whole")
    cut = run(config(rule, rounds=3), out=tmp_path / "cut")
    resumed = resume(cut.run, {"rounds": 6})
    assert resumed.participants == whole.participants
    assert contents(resumed.run) == contents(whole.run)


def test_without_a_rule_nothing_is_paid_and_the_logs_stay_as_they_were(tmp_path: Path) -> None:
    result = run(config("none", rounds=1), out=tmp_path / "run")
    assert result.participants == ()
    row = RunFolder.open(result.run).clients()[0]
    assert not {"score", "reward", "account", "signature"} & set(row)


def test_a_rule_that_measures_needs_validation_clients() -> None:
    with pytest.raises((ConfigError, ValueError), match=r"needs validation_clients of at least 1"):
        config("shapley", validation_clients=0, evaluation={"tasks": 4, "steps": [0, 1, 3]})


def test_behaviours_change_only_their_clients(tmp_path: Path) -> None:
    honest = RunFolder.open(run(config("tasks", rounds=1, cohort=6), out=tmp_path / "a").run).clients()
    tables = [{"kind": "zero-update", "clients": [1]}, {"kind": "copy", "clients": [4], "of": 2}]
    played = run(config("tasks", rounds=1, cohort=6, behaviours=tables), out=tmp_path / "b")
    rows = RunFolder.open(played.run).clients()
    assert [row["norm"] for row in rows if row["client"] in (0, 3, 5)] == [
        row["norm"] for row in honest if row["client"] in (0, 3, 5)
    ]
    assert rows[1]["norm"] == 0.0
    assert rows[4]["reason"] == "the same update as client 2's"


def test_participants_add_up_over_rounds() -> None:
    def row(round_: int, client: int, reward: int | None, **more: object) -> ClientRow:
        plain = {"round": round_, "client": client, "tasks": 2 if reward is not None else 0}
        judged = {"admitted": reward is not None, "reason": None, "score": 0.5, "reward": reward}
        return CLIENTS.parse(json.dumps(plain | judged | more).encode())

    found = participants(
        [
            row(1, 3, 10, account="0xA"),
            row(1, 5, None, reason="NaN in 'w'", score=None),
            row(2, 3, 5, score=1.5, account="0xA"),
            row(2, 5, 20, score=-1.0, account="0xB"),
            row(3, 5, None, reason="NaN in 'w'", score=None),
        ]
    )
    assert [(p.client, p.account, p.rounds, p.admitted, p.tasks) for p in found] == [
        (5, "0xB", 3, 1, 2),
        (3, "0xA", 2, 2, 4),
    ]
    assert [(p.score, p.earned, p.refused) for p in found] == [
        (-1.0, 20, "NaN in 'w'"),
        (1.0, 15, None),
    ]
