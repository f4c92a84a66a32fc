"""A run folder whose files say what no run writes: it is gone on with, or refused in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fedmeta.errors import FedmetaError
from fedmeta.experiment import Config, Listener, RunFolder, resume, run
from tests.experiment.helpers import TINY, contents


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("finished") / "run"
    run(Config(**TINY | {"rounds": 2}), out=path)
    return path


@pytest.mark.parametrize(
    "entries",
    [
        {"versions": ["torch"]},
        {"wall_seconds": "long", "status": 7},
        {"wall_seconds": 10**400},
        {"wall_seconds": {}, "final": "all", "experiment": None},
        {"made": [{"from": 1, "code": "abc"}]},
        {"made": [{"from": 1, "settings": [3]}]},
        {"made": {"from": 1}},
        {"run_id": 5, "spec": {"kind": 9}},
    ],
)
def test_a_run_is_gone_on_with_whatever_run_json_says(
    finished: Path, tmp_path: Path, entries: dict[str, Any]
) -> None:
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    info = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(info | entries))
    try:
        assert resume(path).status == "finished"
    except FedmetaError as error:
        assert "\n" not in str(error)  # noqa: PT017
    assert contents(path) == contents(finished)
    assert RunFolder(path).info["status"] == "finished"


@pytest.mark.parametrize("text", ["null", "[1]", '"run"', "{}", ""])
def test_what_is_no_run_json_is_as_none(tmp_path: Path, text: str) -> None:
    folder = RunFolder.create(tmp_path / "run", Config(**TINY), {"status": "failed"})
    (folder.path / "run.json").write_text(text)
    assert folder.info == {}
    assert folder.status == "unreadable"


def test_a_run_without_a_place_for_the_secret_says_so_once_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMETA_STATE", "/dev/null/state")
    notes: list[str] = []
    listener = Listener(note=notes.append)
    path = tmp_path / "run"
    assert run(Config(**TINY | {"rounds": 1}), out=path, listener=listener).status == "finished"
    (note,) = (note for note in notes if "/dev/null/state" in note)
    assert note.endswith("will not count as made here")
    assert resume(path, {"rounds": 2}).rounds == 2
