"""Refusal reasons are counted by kind; a run that skipped most rounds did not learn."""

import json
from pathlib import Path
from typing import Any

from fedmeta.experiment import Config, RunFolder
from fedmeta.experiment.client_totals import note_refused, participants, replies, why_untrained
from fedmeta.experiment.rows import CLIENTS, ClientRow
from tests.experiment.helpers import TINY


def row(client: int, round_: int, reason: str | None, norm: float | None = None) -> dict[str, Any]:
    outcome = "admitted" if reason is None else "quarantined"
    about = {"round": round_, "client": client, "tasks": 0, "norm": norm, "admitted": reason is None}
    return about | {"reason": reason, "outcome": outcome}


def lost(client: int, round_: int, seconds: int = 600) -> dict[str, Any]:
    return row(client, round_, f"no reply within {seconds} s") | {"outcome": "lost"}


def read(row: dict[str, Any]) -> ClientRow:
    return CLIENTS.parse(json.dumps(row).encode())


def folder_of(path: Path, rows: list[dict[str, Any]], quorum: int = 1) -> RunFolder:
    """A folder with the logs of clients' rows, whose rounds are skipped below the quorum."""
    folder = RunFolder.create(path / "r", Config(**TINY), {})
    metrics = []
    for round_ in sorted({one["round"] for one in rows}):
        own = [one for one in rows if one["round"] == round_]
        admitted = sum(one["admitted"] for one in own)
        about = {"round": round_, "tasks": 0, "cohort": len(own), "admitted": admitted, "bytes_down": 8}
        metrics.append(about | {"skipped": admitted < quorum})
    for name, log in (("clients", rows), ("metrics", metrics)):
        lines = [json.dumps(one) + "\n" for one in log]
        (folder.path / f"{name}.jsonl").write_text("".join(lines))
    return folder


def test_one_lost_reply_does_not_beat_three_norms_each_its_own(tmp_path: Path) -> None:
    rows = [lost(0, 1)]
    rows += [row(c, 1, f"norm {1500 + c} exceeds max_norm 1000", 1500.0 + c) for c in (3, 1, 2)]
    found = replies(folder_of(tmp_path, rows))
    assert found is not None
    first, second = found["reasons"]
    assert (first["reason"], first["count"], first["clients"]) == ("norm … exceeds max_norm …", 3, 3)
    assert (first["example"], first["example_client"], first["example_round"]) == (
        "norm 1503 exceeds max_norm 1000",
        3,
        1,
    )
    assert first["norms"] == [1501.0, 1503.0]
    assert (second["count"], second["norms"]) == (1, None)


def test_one_lost_reply_does_not_beat_three_counts_and_three_shapes_each_its_own(tmp_path: Path) -> None:
    """Counts that are not numbers and shapes of other ranks were reasons of their own."""
    values = ("None", "True", "'many'")
    rows = [lost(0, 1), lost(9, 1)]
    rows += [row(c, 1, f"task count {value} is no whole number") for c, value in enumerate(values, 1)]
    shapes = ("(3,)", "(1, 3)", "()", "(3, 1, 1)")
    rows += [row(c, 1, f"'w' has shape {shape}, not (3, 3)") for c, shape in enumerate(shapes, 4)]
    found = replies(folder_of(tmp_path, rows))
    assert found is not None
    assert [(one["reason"], one["count"]) for one in found["reasons"]] == [
        ("… has shape …, not …", 4),
        ("task count … is not an integer", 3),
        ("no reply within … s", 2),
    ]


def test_a_run_is_judged_and_shown_by_the_same_count(tmp_path: Path) -> None:
    """The hint at the traceback follows the code, not how the sentence begins."""
    rows = [row(c, 1, f"'w' has dtype int{8 * c}, not float32") for c in (1, 2, 4)]
    rows += [row(7, 1, "client failed: OSError: x"), row(8, 1, "client failed: KeyError: y")]
    folder = folder_of(tmp_path, rows)
    said = why_untrained(folder, 1)
    assert said is not None
    assert said.endswith(
        "3 of 5 times the reason was: 'w' has dtype int8, not float32 (client 1, round 1)"
    )
    found = replies(folder)
    assert found is not None
    assert [one["count"] for one in found["reasons"]] == [3, 1, 1]


def test_a_clients_refusals_are_shown_by_their_most_frequent_reason() -> None:
    reasons = ["not signed"] * 2 + [f"norm {n} exceeds max_norm 1" for n in (4, 5, 6)]
    (one,) = participants([read(row(1, round_, reason)) for round_, reason in enumerate(reasons, 1)])
    assert one.refused == "norm 4 exceeds max_norm 1"


def test_more_than_half_skipped_is_too_many_and_half_is_not(tmp_path: Path) -> None:
    def rounds(bad: int, good: int) -> list[dict[str, Any]]:
        refused = [row(5, r, f"norm {r}.5 exceeds max_norm 1") for r in range(1, bad + 1)]
        return refused + [row(5, r, None) for r in range(bad + 1, bad + good + 1)]

    (tmp_path / "half").mkdir()
    assert why_untrained(folder_of(tmp_path / "half", rounds(3, 3)), 1) is None
    assert why_untrained(folder_of(tmp_path, rounds(3, 2)), 1) == (
        "the run did not learn: 3 of 5 rounds were skipped, with fewer than 1 replies admitted; "
        "3 of 3 times the reason was: norm 1.5 exceeds max_norm 1 (client 5, round 1)"
    )


def test_only_what_was_refused_in_skipped_rounds_is_to_blame(tmp_path: Path) -> None:
    rows = [row(c, 1, "not signed") for c in range(5)] + [row(9, 1, None)]
    rows += [lost(4, r, 60) for r in (2, 3)]
    said = why_untrained(folder_of(tmp_path, rows), 1)
    assert said is not None
    assert said.endswith("2 of 2 times the reason was: no reply within 60 s (client 4, round 2)")


def test_a_run_without_rounds_is_not_judged(tmp_path: Path) -> None:
    assert why_untrained(folder_of(tmp_path, []), 1) is None


def test_each_refused_node_is_recorded_once_within_a_limit(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [row(0, 1, None)])
    for number in (7, 8, 7):
        note_refused(folder, f"node {number}: it claims partition 0 without a proof")
    found = replies(folder)
    assert found is not None
    assert found["refused_nodes"] == [
        "node 7: it claims partition 0 without a proof",
        "node 8: it claims partition 0 without a proof",
    ]
    for number in range(300):
        note_refused(folder, f"node {number}: it claims partition 1 without a proof")
    assert len(folder.info["refused_nodes"]) == 100


def test_without_refused_nodes_none_are_reported(tmp_path: Path) -> None:
    assert "refused_nodes" not in (replies(folder_of(tmp_path, [row(0, 1, None)])) or {})
