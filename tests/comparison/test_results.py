"""Arms are compared on the same clients; divergence and missing answers help none of them."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from fedmeta.comparison import statistics as measures
from fedmeta.comparison.results import Measured, on_common_clients, read
from fedmeta.comparison.statistics import Target

Values = Mapping[int, float | None]
"""What each client that answered came to; None: one of its two tasks diverged."""


def step(values: Sequence[float | None], asked: int, **more: Any) -> dict[str, Any]:
    """A row of results of clients with two tasks each."""
    known = [value for value in values if value is not None]
    diverged = len(values) - len(known)
    mean = None if diverged else sum(known) / len(known)
    row = {"step": 1, "loss": mean, "ci95": 0.5, "loss_tasks_ci95": 0.25, "tasks": 2 * len(values)}
    return row | {"diverged": diverged, "clients": len(values), "clients_asked": asked} | more


COUNTS = {"tasks": 8, "cohort": 1, "admitted": 1, "skipped": False}
PLAIN = COUNTS | {"round": 1, "bytes_down": 1, "bytes_up": 1}


def made(path: Path, clients: Values, looks: Sequence[dict[str, Any]] = ()) -> Measured:
    """A finished run with these results of test clients."""
    path.mkdir()
    final = [step(list(clients.values()), 4)]
    (path / "run.json").write_text(
        json.dumps({"status": "finished", "wall_seconds": 1.0, "final": final})
    )
    rounds = [PLAIN | {"round": i + 1, "test": [look]} for i, look in enumerate(looks)]
    (path / "metrics.jsonl").write_text(
        "".join(f"{json.dumps(row)}\n" for row in rounds or [PLAIN | {"test": None}])
    )
    rows = ({"client": c, "steps": [step([value], 1)]} for c, value in clients.items())
    (path / "test.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return read(path, "loss", None)


def test_arms_are_compared_on_the_clients_that_answered_in_all_of_them(tmp_path: Path) -> None:
    """Client 3 is hard: the second arm, where it crashed, must not look better for that."""
    first = made(tmp_path / "a", {0: 1.0, 1: 2.0, 2: 3.0, 3: 90.0})
    second = made(tmp_path / "b", {0: 1.5, 1: 2.5, 2: 4.0})
    own, other = on_common_clients([[first], [second]])
    [before], [after] = measures.final(own, [1]), measures.final(other, [1])
    assert (before["mean"], after["mean"]) == (2.0, 8 / 3)
    assert [len(run.clients) for run in (*own, *other) if run] == [3, 3]
    [gap] = measures.difference(other, own, [1])
    assert gap["mean"] == pytest.approx(2 / 3)


def test_runs_on_the_same_clients_are_as_their_files_say(tmp_path: Path) -> None:
    runs = [made(tmp_path / name, {0: 0.1, 1: 0.7}) for name in "ab"]
    assert on_common_clients([[runs[0]], [runs[1]]]) == [[runs[0]], [runs[1]]]
    assert on_common_clients([[None], [runs[1]]]) == [[None], [runs[1]]]
    assert on_common_clients([[runs[0], None], [None, None]]) == [[runs[0], None], [None, None]]


def test_of_one_seed_intervals_are_over_its_clients_and_differences_are_paired_by_client(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(5)
    values = rng.random((2, 6))
    one, other = (
        made(tmp_path / name, dict(enumerate(row)))
        for name, row in zip("ab", values.tolist(), strict=True)
    )
    [final], [gap] = measures.final([one], [1]), measures.difference([other], [one], [1])
    t = stats.t.ppf(0.975, 5)
    assert final["ci95"] == pytest.approx(t * stats.sem(values[0]))
    assert final["clients_ci95"] == [final["ci95"]]
    assert final["tasks_ci95"] == [0.25]
    assert gap["mean"] == pytest.approx((values[1] - values[0]).mean())
    assert gap["ci95"] == pytest.approx(t * stats.sem(values[1] - values[0]))
    two = measures.final([one, other], [1])[0]
    assert two["ci95"] == pytest.approx(stats.t.ppf(0.975, 1) * stats.sem(values.mean(1)))
    assert two["clients_ci95"] == pytest.approx([t * stats.sem(row) for row in values])


def test_a_seed_whose_loss_is_infinite_is_not_left_out_of_the_mean(tmp_path: Path) -> None:
    good, bad = made(tmp_path / "a", {0: 1.0, 1: 2.0}), made(tmp_path / "b", {0: 0.1, 1: None})
    [final], [gap] = (
        measures.final([good, bad], [1]),
        measures.difference([good, bad], [good, good], [1]),
    )
    assert (final["mean"], final["ci95"], final["values"]) == (None, None, [1.5, None])
    assert final["diverged"] == [0, 1]
    assert (gap["mean"], gap["values"]) == (None, [0.0, None])
    # One that is not finished says nothing yet, and is left out.
    assert measures.final([good, None], [1])[0]["mean"] == 1.5
    assert measures.final([bad], [1])[0]["ci95"] is None


def test_an_evaluation_with_a_missing_or_diverged_client_does_not_reach_a_target(
    tmp_path: Path,
) -> None:
    looks = [step([0.1, None], 2), step([0.1], 2), step([0.1, 0.9], 2), step([0.1, 0.1], 2)]
    run = made(tmp_path / "a", {0: 0.1, 1: 0.1}, looks)
    assert [look.values[1] for look in run.tracked] == [math.inf, math.inf, 0.5, 0.1]
    reach = measures.to_target([run], Target(0.2, 1, "by hand", higher_is_better=False))
    assert reach["rounds"]["values"] == [4]
    assert [point["mean"] for point in measures.curve([run], 1)] == [None, None, 0.5, 0.1]
    assert [point["ci95"] for point in measures.curve([run], 1)] == [0.5, None, 0.5, 0.5]


def test_a_run_of_a_version_that_left_clients_out_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "old"
    made(path, {0: 1.0, 1: 2.0})
    old = {"step": 1, "loss": 1.5, "accuracy": None, "ci95": 0.3, "tasks": 4, "loss_ci95": 0.3}
    (path / "run.json").write_text(json.dumps({"wall_seconds": 1.0, "final": [old]}))
    (path / "metrics.jsonl").write_text(json.dumps(PLAIN | {"test": [old | {"loss": math.nan}]}) + "\n")
    (path / "test.jsonl").unlink()
    read.cache_clear()
    run = read(path, "loss", None)
    [final] = measures.final([run], [1])
    assert (final["mean"], final["ci95"], final["tasks_ci95"], final["diverged"]) == (
        1.5,
        None,
        [None],
        [None],
    )
    assert measures.curve([run], 1)[0]["mean"] is None
    other = made(tmp_path / "new", {0: 1.0})
    assert on_common_clients([[run], [other]]) == [[run], [other]]
