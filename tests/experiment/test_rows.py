"""Each log of a run has one reader and one writer; rows of earlier versions get codes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fedmeta.errors import ConfigError, UsageError
from fedmeta.experiment import Config, RunFolder, resume, run
from fedmeta.experiment.folder import LOGS
from fedmeta.experiment.rows import (
    CLIENTS,
    FORMAT,
    METRICS,
    TEST,
    at_fault,
    client_row,
    kind,
    later_format,
    measures_entry,
    measures_of,
)
from fedmeta.federation import Award, ClientRecord, SignedUpdate
from fedmeta.federation.refusal import Fault, Refusal, RefusalCode
from fedmeta.report.read import read_run
from fedmeta.tasks import Measure, TaskSpec
from fedmeta.tasks.objectives.regression import Regression
from tests.experiment.helpers import TINY
from tests.federation.test_gate import CASES, judge

OLD: list[tuple[str, str, bool]] = [
    # What was written before there were codes, the code, and whether it cost the client stake.
    ("NaN in 'w'", "nan", False),
    ("Inf in 'w'", "infinite", False),
    ("'w' has shape (4, 1), not (2, 2)", "wrong_shape", True),
    ("'w' holds shape (4,), not (2, 2) as declared", "held_shape", True),
    ("'w' has dtype float64, not float32", "wrong_dtype", True),
    ("'w' holds dtype object, not float32 as declared", "held_dtype", True),
    ("'w' is 151 bytes long, not 152", "wrong_length", True),
    ("'w' is serialized as 'pickle', not 'numpy.ndarray'", "serialization", True),
    ("'b' is missing", "missing_key", True),
    ("unexpected key 'c'", "extra_key", True),
    ("norm 1e+04 exceeds max_norm 1000", "norm", True),
    ("norm inf exceeds max_norm 1000", "norm", True),
    ("'w' cannot be decoded", "undecodable", True),
    ("unreadable reply (AttributeError)", "unreadable", True),
    ("task count -1 is not within 1 and 4", "task_count", True),
    ("task count nan is no whole number", "task_count_type", True),
    ("metric 'num-tasks' is missing", "no_task_count", True),
    ("metric 'loss' is nan", "metric_not_finite", True),
    ("metric 'loss' diverged: nan", "metric_diverged", False),
    ("metric 'loss' is None, not a number", "metric_type", True),
    ("metric 'accuracy' is 7, not within 0 and 1", "metric_range", True),
    ("unexpected metric 'secret'", "extra_metric", True),
    ("unexpected record 'more'", "extra_record", True),
    ("unexpected config 'note'", "extra_config", True),
    ("'arrays' is missing or no ArrayRecord", "missing_record", True),
    ("reply to round True, not 8", "wrong_round", True),
    ("reply without content", "no_content", True),
    ("2 replies in one round, none counts", "several_replies", True),
    ("not signed", "not_signed", True),
    ("not signed by the account of its client", "wrong_signature", True),
    ("client failed: OSError: 'w' is missing", "client_error", False),
    ("was not asked in this round", "not_asked", False),
    ("no reply within 600 s", "lost", False),
    ("reply after 99.5 s, not 60 s", "late", False),
    ("not needed: 4 answered before", "surplus", False),
    ("the same update as client 2's", "copy", False),
]


def line(**values: Any) -> bytes:
    return json.dumps({"round": 1, "client": 3, "tasks": 0, "admitted": False} | values).encode()


@pytest.mark.parametrize(("reason", "code", "blamed"), OLD)
def test_a_row_from_before_codes_gets_the_code_of_its_reason(
    reason: str, code: str, blamed: bool
) -> None:
    row = CLIENTS.parse(line(reason=reason))
    assert row["code"] is RefusalCode(code)
    assert row["reason"] == reason
    assert at_fault(row) is blamed


def test_every_code_of_a_training_reply_had_a_sentence_before_there_were_codes() -> None:
    later = {code for code in RefusalCode if code.startswith("evaluation_")} | {
        RefusalCode.UNKNOWN,
        RefusalCode.OTHER,
    }
    assert {code for _, code, _ in OLD} == {str(code) for code in set(RefusalCode) - later}


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_the_gates_refusals_read_the_same_with_and_without_codes(case: Any) -> None:
    verdict = judge(case[2])
    assert isinstance(verdict, Refusal)
    record = ClientRecord(1, 3, 0, verdict.norm, False, verdict)
    written = CLIENTS.write([client_row(record, coded=True, signed=False, paid=False)])
    new = CLIENTS.parse(written)
    old = CLIENTS.parse(
        json.dumps({k: v for k, v in json.loads(written).items() if k != "code"}).encode()
    )
    assert new["code"] is old["code"] is verdict.code
    assert kind(new) == kind(old) == verdict.code.label


@pytest.mark.parametrize(
    ("values", "code", "shown"),
    [
        ({"reason": "the moon was full"}, "other", "another reason"),
        ({"reason": ["norm"], "code": 7}, "other", "another reason"),
        ({"reason": "the moon was full", "code": "moon"}, "unknown", "a reason of a later version"),
        (
            {"reason": "norm 5 exceeds max_norm 1", "code": "moon"},
            "unknown",
            "a reason of a later version",
        ),
    ],
)
def test_an_unknown_reason_counts_as_other(values: dict[str, Any], code: str, shown: str) -> None:
    row = CLIENTS.parse(line(**values))
    assert (row["code"], kind(row)) == (RefusalCode(code), shown)
    assert kind(CLIENTS.parse(line())) == "no reason given"


def test_an_admitted_row_has_no_code_whatever_it_says() -> None:
    row = CLIENTS.parse(line(admitted=True, code="norm", reason="norm 5 exceeds max_norm 1"))
    assert row["code"] is None
    assert not at_fault(row)


def test_a_row_is_written_with_only_the_columns_of_its_run() -> None:
    proof = SignedUpdate("0xAb", b"\x01\xff", b"\x02")
    record = ClientRecord(4, 2, 8, 1.5, True, None, {"loss": 0.25}, proof, Award(0.5, 7))
    plain = dict(client_row(record, coded=True, signed=False, paid=False))
    assert plain == {
        "round": 4,
        "client": 2,
        "tasks": 8,
        "norm": 1.5,
        "admitted": True,
        "code": None,
        "reason": None,
        "loss": 0.25,
        "accuracy": None,
        "outcome": "admitted",
    }
    signed = {"account": "0xAb", "update": "01ff", "signature": "02"}
    full = dict(client_row(record, coded=True, signed=True, paid=True))
    assert full == plain | signed | {"score": 0.5, "reward": 7}
    refused = ClientRecord(4, 2, 0, None, False, Refusal(RefusalCode.NOT_SIGNED))
    row = dict(client_row(refused, coded=True, signed=True, paid=True))
    assert (row["code"], row["reason"]) == ("not_signed", "not signed")
    assert [row[name] for name in (*signed, "score", "reward")] == [None] * 5


def test_a_loss_that_is_not_finite_is_null_in_a_line() -> None:
    (written,) = METRICS.write([{"round": 1, "loss": float("nan")}]).splitlines()
    assert written == b'{"round": 1, "loss": null}'


@pytest.mark.slow
def test_a_run_started_without_codes_writes_the_same_bytes_again(tmp_path: Path) -> None:
    """A ledger holds hashes of such lines; what is added to them later is of the same format."""
    faults = {"rates": {"nan": 0.4}}
    path = run(
        Config(**TINY | {"rounds": 4, "checkpoint_every": 1, "faults": faults}), out=tmp_path / "r"
    ).run
    log = path / "clients.jsonl"
    rows = [json.loads(one) for one in log.read_text().splitlines()]
    assert any(row["code"] for row in rows)
    old = "".join(
        json.dumps({k: v for k, v in row.items() if k != "code"}) + "\n" for row in rows
    ).encode()
    log.write_bytes(old)
    info = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({k: v for k, v in info.items() if k != "format"}))
    for manifest in sorted((path / "checkpoints").glob("round-*.json")):
        kept = json.loads(manifest.read_text())
        rounds = [(one, json.loads(one)["round"]) for one in old.splitlines(keepends=True)]
        ends = sum(len(one) for one, round_ in rounds if round_ <= kept["round"])
        kept["log_bytes"]["clients.jsonl"] = ends
        manifest.write_text(json.dumps(kept))
    for newest in (path / "checkpoints").glob("round-000004.*"):
        newest.unlink()
    resume(path)
    assert log.read_bytes() == old
    assert "format" not in RunFolder(path).info
    resume(path, {"rounds": 5})
    added = log.read_bytes().removeprefix(old).splitlines()
    assert added
    assert not any("code" in json.loads(one) for one in added)
    assert {row["code"] for row in RunFolder(path).clients()} > {None}


@pytest.fixture
def newer(tmp_path: Path) -> RunFolder:
    """A run of a later version, whose rows say something that this one does not know."""
    info = {"status": "finished", "versions": {"fedmeta": "7.3.1"}}
    folder = RunFolder.create(tmp_path / "run", Config(**TINY), info)
    folder.update_info({"format": FORMAT + 1})
    for log in LOGS:
        (folder.path / log).write_text('{"round": 1, "client": 0, "admitted": {"as": "of 7.3"}}\n')
    return folder


def test_a_run_of_a_later_version_is_refused_in_one_line_that_names_it(newer: RunFolder) -> None:
    before = {path: path.read_bytes() for path in newer.path.iterdir() if path.is_file()}
    for read in (newer.metrics, newer.clients, newer.test, lambda: resume(newer.path)):
        with pytest.raises(UsageError, match=r"format 3, written by fedmeta 7\.3\.1") as refusal:
            read()
        assert "\n" not in str(refusal.value)
    assert before == {path: path.read_bytes() for path in newer.path.iterdir() if path.is_file()}


def test_a_report_and_the_page_name_the_later_version_and_show_no_row(newer: RunFolder) -> None:
    read = read_run(newer.path)
    assert (read.metrics, len(read.clients)) == ([], 0)
    assert str(read.problem).startswith("run.json: its logs are of format 3, written by fedmeta 7.3.1")


@pytest.mark.parametrize("found", [None, 1, FORMAT, "9", [9], True, 1.5, -3])
def test_a_format_that_is_not_later_is_read(found: object) -> None:
    assert later_format({"format": found}) is None


def test_a_later_version_that_does_not_say_which_is_refused_as_well() -> None:
    said = later_format({"format": 10**40, "versions": ["\x1b[2J"]})
    assert said is not None
    assert "written by fedmeta ?" in said
    told = later_format({"format": 9, "versions": {"fedmeta": "\x1b[2J\n9"}})
    assert told is not None
    assert "\x1b" not in told
    assert "\n" not in told


def test_every_code_says_whose_fault_it_is() -> None:
    assert {code.fault for code in RefusalCode} == set(Fault)


def test_a_code_of_a_later_version_costs_no_stake() -> None:
    refused = {"round": 1, "client": 2, "tasks": 1, "admitted": False}
    row = CLIENTS.parse(json.dumps(refused | {"code": "slow_network", "reason": "x"}).encode())
    assert row["code"] is RefusalCode.UNKNOWN
    assert not at_fault(row)


def test_a_test_log_of_more_than_fits_into_the_memory_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test.jsonl").write_text('{"client": 1, "steps": []}\n' * 5)
    # Of 17 values each: a table and a list, which count as eight, and a comma.
    small = replace(TEST, most=60)
    with pytest.raises(UsageError, match=r"test\.jsonl is too long after line 3$"):
        small.read(tmp_path)
    assert len(TEST.read(tmp_path)) == 5


class Gains(Regression):
    measures: ClassVar[dict[str, Measure]] = {"gain": Measure(True), "hits@10": Measure(True, 0.0, 1.0)}


@pytest.mark.parametrize(
    "name",
    ["round", "loss", "tasks", "gain_ci95", "gain_before", "ci95", "", "a b", "x" * 41, "seconds"],
)
def test_a_measure_may_not_have_the_name_of_another_column(name: str) -> None:
    objective = Gains(TaskSpec("regression", (1,), 1))
    objective.measures = {name: Measure()}  # type: ignore[misc]
    with pytest.raises(ConfigError, match="a measure cannot be named") as refusal:
        measures_entry(objective)
    assert "\n" not in str(refusal.value)


def test_measures_in_run_json_are_read_back() -> None:
    entry = measures_entry(Gains(TaskSpec("regression", (1,), 1)))
    found = measures_of({"measures": json.loads(json.dumps(entry))})
    assert list(found) == ["gain", "hits@10", "loss"]
    assert found == {**Gains.measures, "loss": Measure()}


@pytest.mark.parametrize(
    "said",
    [
        None,
        {},
        [{"name": "loss"}],
        [{"name": "gain", "higher_is_better": True, "low": None, "high": None}],
        [{"name": "<b>", "higher_is_better": True, "low": None, "high": None}],
        [{"name": "loss", "higher_is_better": False, "low": "-inf", "high": None}],
    ],
)
def test_runs_that_do_not_say_their_measures_have_the_two_of_before(said: Any) -> None:
    found = measures_of({"measures": said})
    assert found == {"accuracy": Measure(True, 0.0, 1.0), "loss": Measure()}


def test_measures_of_any_name_have_columns_of_their_own_behind_those_of_before() -> None:
    record = ClientRecord(4, 2, 8, 1.5, True, None, {"loss": 0.25, "gain": 3.0})
    row = client_row(record, coded=True, signed=False, paid=False)
    assert list(row)[-2:] == ["outcome", "gain"]
    assert (row["loss"], row["accuracy"], row["gain"]) == (0.25, None, 3.0)  # type: ignore[typeddict-item]
