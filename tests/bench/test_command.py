"""`fedmeta bench`: its output for scripts, with the smallest number of runs."""

import json

import pytest

from fedmeta.bench import CASES
from fedmeta.bench.maml import OURS, RIVAL
from fedmeta.bench.timing import Timing
from fedmeta.cli.main import main


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", *arguments])
    code = stopped.value.code
    assert isinstance(code, int)
    return code


def test_json_is_one_object_with_the_agreed_keys(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    known = {OURS: Timing((1.0, 2.0)), RIVAL: Timing((30.0, 33.0))}
    monkeypatch.setattr("fedmeta.bench.maml.interleave", lambda *_: dict(known))
    assert call("maml-sinusoid", "--json", "--runs", "2") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["case"] == "maml-sinusoid"
    assert printed["rival"] == "clone-and-loop"
    assert printed["threads"] == 1
    assert printed["runs"] == 2
    assert (printed["ours_ms"], printed["rival_ms"], printed["ratio"]) == (1.5, 31.5, 21.0)
    assert printed["goals"][0]["goal"] == "at least 12"


def test_an_unknown_case_is_refused_with_the_nearest_name(capsys: pytest.CaptureFixture[str]):
    assert call("maml-sinusiod") == 2
    captured = capsys.readouterr()
    assert captured.err == "fedmeta: unknown case 'maml-sinusiod': did you mean 'maml-sinusoid'?\n"
    assert captured.out == ""


def test_a_number_of_runs_below_one_is_refused(capsys: pytest.CaptureFixture[str]):
    assert call("maml-sinusoid", "--runs", "0") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_help_names_every_case(capsys: pytest.CaptureFixture[str]):
    assert call("--help") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in CASES)


def test_without_json_every_goal_is_named_with_its_verdict(capsys: pytest.CaptureFixture[str]):
    assert call("maml-sinusoid", "--runs", "1") == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("maml-sinusoid: one second-order MAML meta-gradient")
    assert "times as fast as clone-and-loop" in captured.out
    assert ("met: at least 12" in captured.out) != ("MISSED: at least 12" in captured.out)
    assert captured.err == "fedmeta: measuring maml-sinusoid\n"
