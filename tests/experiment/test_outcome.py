"""A run that did not learn fails, and clients' exceptions are kept."""

import re
from pathlib import Path
from typing import Any

import pytest

from fedmeta.comparison.compare import Execution, compare
from fedmeta.errors import LearnersFailedError, UntrainedError
from fedmeta.experiment import Config, Listener, RunFolder, resume, run
from fedmeta.report.parts import run_part
from fedmeta.report.read import read_run
from fedmeta.report.snippet import run_snippet
from tests.experiment.helpers import TINY

OFFLINE = "tests.federation.helpers:Offline"


def config(**changes: Any) -> Config:
    return Config(**TINY | changes)


def crashing(*rounds: int, **changes: Any) -> Config:
    """All training clients crash in these rounds."""
    entry = {"kind": "crash-after", "clients": list(range(6)), "rounds": list(rounds)}
    return config(faults={"entries": [entry]}, **changes)


def test_a_run_without_an_admitted_reply_fails_with_the_numbers(tmp_path: Path) -> None:
    why = r"no reply was admitted, so all 6 rounds were skipped; 24 of 24 times the reason was: "
    norm = r"norm \d+(\.\d+)? exceeds max_norm 1e-05 \(client \d, round 1\)$"
    with pytest.raises(UntrainedError, match=why + norm):
        run(config(gate={"max_norm": 1e-5}), out=tmp_path / "r")
    folder = RunFolder.open(tmp_path / "r")
    assert folder.status == "failed"
    assert re.search(norm, folder.info["error"])
    assert folder.info["final"] == []
    assert folder.info["replies"]["reasons"][0]["norms"][1] > 1e-5


@pytest.mark.parametrize(("bad", "fails"), [((1, 2, 3), False), ((1, 2, 3, 4), True)])
def test_most_rounds_below_the_quorum_fail_a_run(
    bad: tuple[int, ...], fails: bool, tmp_path: Path
) -> None:
    if not fails:
        assert run(crashing(*bad), out=tmp_path / "r").status == "finished"
        return
    with pytest.raises(UntrainedError, match="4 of 6 rounds were skipped, with fewer than 2 replies"):
        run(crashing(*bad), out=tmp_path / "r")
    # It learned a little: its test is there for who wants to look.
    assert [step["step"] for step in RunFolder.open(tmp_path / "r").info["final"]] == [0, 1, 3]


def test_a_resumed_run_is_judged_over_all_its_rounds(tmp_path: Path) -> None:
    with pytest.raises(UntrainedError):
        run(crashing(1, 2, 3, 4), out=tmp_path / "r")
    with pytest.raises(UntrainedError, match="4 of 6 rounds"):
        resume(tmp_path / "r")
    with pytest.raises(UntrainedError, match="4 of 7 rounds"):
        resume(tmp_path / "r", {"rounds": 7})
    assert resume(tmp_path / "r", {"rounds": 8}).status == "finished"
    folder = RunFolder.open(tmp_path / "r")
    assert (folder.status, folder.info["error"]) == ("finished", None)


@pytest.mark.parametrize("workers", [1, 2])
def test_clients_exceptions_are_kept_with_tracebacks(workers: int, tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(UntrainedError, match=re.escape(f"the traceback is in {tmp_path}/r/errors.log")):
        run(
            config(task=OFFLINE, workers=workers),
            out=tmp_path / "r",
            listener=Listener(failure=told.append),
            check=False,
        )
    log = (tmp_path / "r" / "errors.log").read_text()
    assert log.startswith("round 1, client ")
    assert 'helpers.py", line' in log
    assert log.count("OSError: no disk\n") == 1, "each kind is written once"
    # 24 training requests, and a validation client after rounds 2, 4 and 6.
    assert "(27 times, last in round 6, client 6)" in log
    assert len(told) == 1
    assert "Traceback" in told[0]


@pytest.mark.parametrize("training", ["local", "centralized"])
def test_learners_without_a_federation_that_raise_fail_the_run(training: str, tmp_path: Path) -> None:
    with pytest.raises(LearnersFailedError, match=r"round 1: .*OSError: no disk.*errors\.log$"):
        run(config(task=OFFLINE, training=training), out=tmp_path / "r", check=False)
    assert RunFolder.open(tmp_path / "r").status == "failed"
    assert "OSError: no disk" in (tmp_path / "r" / "errors.log").read_text()


def test_a_crash_by_plan_is_in_the_log_too_and_a_clean_run_has_none(tmp_path: Path) -> None:
    run(crashing(2), out=tmp_path / "crash")
    assert "CrashError: crashed after it trained" in (tmp_path / "crash" / "errors.log").read_text()
    run(config(rounds=1), out=tmp_path / "clean")
    assert not (tmp_path / "clean" / "errors.log").exists()


def test_an_error_of_ours_is_kept_as_well(tmp_path: Path) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError("of a listener")

    with pytest.raises(ZeroDivisionError) as error:
        run(config(), out=tmp_path / "r", listener=Listener(round=broken))
    assert error.value.__notes__ == [f"the traceback is in {tmp_path}/r/errors.log"]
    assert "in broken" in (tmp_path / "r" / "errors.log").read_text()


def test_a_report_shows_a_failure_first(tmp_path: Path) -> None:
    with pytest.raises(UntrainedError):
        run(config(gate={"max_norm": 1e-5}, rounds=2), out=tmp_path / "r")
    part = run_part(read_run(tmp_path / "r"), "r")
    assert part.status == "failed"
    assert part.failure.startswith("the run did not learn: no reply was admitted")
    assert "the run did not learn" in run_snippet(tmp_path / "r")


def test_in_a_comparison_the_arm_fails_with_the_reason(tmp_path: Path) -> None:
    base = config(rounds=2, compare={"arms": {"strict": {"gate.max_norm": 1e-5}}})
    result = compare(
        base, arms=("federated", "strict"), seeds=1, execution=Execution(tmp_path / "c", jobs=1)
    )
    assert [arm["status"] for arm in result.data["arms"]] == ["finished", "failed"]
    (failure,) = result.failures
    assert failure.startswith("strict-seed0: the run did not learn: no reply was admitted")
