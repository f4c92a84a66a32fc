"""Run folders from elsewhere: what is read, and that nothing is written outside."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedmeta.errors import FedmetaError, UsageError
from fedmeta.experiment import Config, Listener, RunFolder, resume, run
from fedmeta.experiment.learned.model import Learned
from fedmeta.experiment.recorder import ErrorLog
from fedmeta.federation.failures import Failure
from tests.experiment import helpers
from tests.experiment.helpers import TINY
from tests.report.made import make


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("folder") / "run", TINY | {"rounds": 3, "test_clients": 0})


@pytest.fixture
def theirs(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "runs" / "theirs"))


@pytest.mark.parametrize(
    "name", ["run.lock", "metrics.jsonl", "clients.jsonl", "checkpoints", "chain", "run.json"]
)
def test_resuming_writes_through_no_planted_link(theirs: Path, tmp_path: Path, name: str) -> None:
    """What a link leads to keeps every byte."""
    outside = tmp_path / "outside"
    if (theirs / name).exists():
        shutil.move(theirs / name, outside)
    elif name == "chain":
        outside.mkdir()
    else:
        outside.write_bytes(b"mine")
    (theirs / name).symlink_to(outside)
    before = contents(outside)
    with pytest.raises(FedmetaError, match="link"):
        resume(theirs, {"rounds": 4})
    assert contents(outside) == before


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return {str(one): one.read_bytes() for one in files}


def test_a_pipe_in_place_of_a_lock_does_not_block(theirs: Path) -> None:
    (theirs / "run.lock").unlink(missing_ok=True)
    os.mkfifo(theirs / "run.lock")
    assert RunFolder(theirs).held() is False
    with pytest.raises(UsageError, match="cannot write to"), RunFolder(theirs).locked():
        pass


def test_a_log_of_errors_takes_over_no_linked_file_and_no_control_character(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "errors.log").symlink_to(tmp_path / "secret")
    log = ErrorLog(tmp_path / "errors.log", lambda _: None)
    log.add(1, 3, Failure("\x1b[2JValueError: \u202egone", "Traceback \x9b31m\n", "file:1"))
    said = (tmp_path / "errors.log").read_text()
    assert "secret" not in said
    assert "\\x1b[2JValueError: \\u202egone" in said
    assert "Traceback \\x9b31m\n" in said
    assert (tmp_path / "secret").read_text() == "secret"


@pytest.mark.parametrize(
    ("log", "row"),
    [
        ("metrics.jsonl", '{"round": "1"}'),
        ("metrics.jsonl", "[]"),
        ("metrics.jsonl", "9" * 5000),
        ("clients.jsonl", '{"round": 1, "client": {}, "tasks": 1, "admitted": true}'),
        ("test.jsonl", '{"client": 1, "steps": "many"}'),
    ],
)
def test_a_row_of_other_kinds_is_damaged(theirs: Path, log: str, row: str) -> None:
    (theirs / log).write_text(f"{row}\n")
    read: dict[str, Callable[[], Any]] = {
        "metrics.jsonl": RunFolder(theirs).metrics,
        "clients.jsonl": RunFolder(theirs).clients,
        "test.jsonl": RunFolder(theirs).test,
    }
    with pytest.raises(UsageError, match=rf"{log}: line 1 is damaged"):
        read[log]()


def forge(run: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of every checkpoint, and put the right hash into its manifest."""
    for manifest in (run / "checkpoints").glob("round-*.json"):
        path = manifest.with_suffix(".safetensors")
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        entries = json.loads(manifest.read_text())
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        manifest.write_text(json.dumps(entries | {"sha256": sha256}))


WEIGHT = "state.head.weight"
FORGED: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "holds numbers that are not finite": lambda t: t[WEIGHT].fill_(torch.nan),
    "is of float64, not float32": lambda t: t.update({WEIGHT: t[WEIGHT].double()}),
    "is missing": lambda t: t.pop(WEIGHT),
    "is not a part of the model": lambda t: t.update({"state.more": torch.ones(2)}),
    "has shape": lambda t: t.update({WEIGHT: t[WEIGHT][None]}),
}


@pytest.mark.parametrize("said", FORGED)
def test_a_forged_checkpoint_is_neither_exported_nor_resumed(
    theirs: Path, tmp_path: Path, said: str
) -> None:
    forge(theirs, FORGED[said])
    with pytest.raises(UsageError, match=said) as refusal:
        Learned.open(theirs).export(tmp_path / "model.safetensors")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "model.safetensors").exists()
    notes: list[str] = []
    resume(theirs, {"rounds": 4}, listener=Listener(note=notes.append))
    assert sum(said in note for note in notes) == 2, "each of the two that are kept is named"


def test_a_forged_optimizer_is_one_line(theirs: Path) -> None:
    def widen(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.endswith("exp_avg")]:
            tensors[name] = torch.ones(7, 7, 7)

    forge(theirs, widen)
    with pytest.raises(UsageError, match="the optimizer's state is not that of Adam") as refusal:
        resume(theirs, {"rounds": 4})
    assert "\n" not in str(refusal.value)


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
def test_a_run_is_resumed_whatever_run_json_says(
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
    assert helpers.contents(path) == helpers.contents(finished)
    assert RunFolder(path).info["status"] == "finished"


@pytest.mark.parametrize("text", ["null", "[1]", '"run"', "{}", ""])
def test_a_damaged_run_json_counts_as_none(tmp_path: Path, text: str) -> None:
    folder = RunFolder.create(tmp_path / "run", Config(**TINY), {"status": "failed"})
    (folder.path / "run.json").write_text(text)
    assert folder.info == {}
    assert folder.status == "unreadable"


def test_a_run_without_a_folder_for_the_secret_says_so_once_and_continues(
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
