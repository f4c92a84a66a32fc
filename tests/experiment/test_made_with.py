"""The code and data that identify a run, and what a resume does when they changed."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedmeta.comparison.run_reuse import RunFinder, run_key
from fedmeta.comparison.worker import Order, _carry_out
from fedmeta.errors import UsageError
from fedmeta.experiment import Config, Listener, RunFolder, resume, run
from fedmeta.experiment.made_with import Made, continued, difference, made_entries, made_with
from fedmeta.experiment.planning import resolve
from tests.experiment.helpers import TINY, contents

NET = """
from torch import nn
from own_blocks import WIDTH

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(1, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))
"""
FAMILY = """
from pathlib import Path
import numpy as np, torch
from fedmeta.options import Options
from fedmeta.tasks import TaskBatch, TaskSpec

class Lines:
    Options = Options

    def __init__(self, options, population, seed):
        self.spec = TaskSpec("regression", (1,), 1)
        self.slope = float(Path(__file__).with_name("slope.txt").read_text())

    def sample(self, client, count, rng):
        x = torch.from_numpy(rng.normal(size=(count, 5, 1)).astype(np.float32))
        return TaskBatch(x, self.slope * x, x, self.slope * x)
"""
SHORT = TINY | {"rounds": 2, "validation_clients": 0, "evaluation": {"tasks": 2, "steps": [0, 1]}}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's model, what it imports, and a family that reads a file."""
    (tmp_path / "own_net.py").write_text(NET)
    (tmp_path / "own_blocks.py").write_text("WIDTH = 4\n")
    (tmp_path / "own_lines.py").write_text(FAMILY)
    (tmp_path / "slope.txt").write_text("2.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    forget()


def forget() -> None:
    """As a new process would: modules are imported again."""
    for name in ("own_net", "own_blocks", "own_lines"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


def config(**settings: Any) -> Config:
    return resolve(Config(**SHORT | {"model": "own_net:Net", "network": {}} | settings))


def lines(**settings: Any) -> Config:
    return resolve(Config(**SHORT | {"task": "own_lines:Lines", "data": {}} | settings))


def edit(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))
    forget()


def notes_of(path: Path, **how: Any) -> list[str]:
    notes: list[str] = []
    resume(path, {"rounds": 3}, listener=Listener(note=notes.append), **how)
    return notes


def place(folder: Path, wanted: Config) -> tuple[str, str, list[str]]:
    """The folder where a comparison would place a run, its state, and the notes."""
    notes: list[str] = []
    found = RunFinder(folder, notes.append).find("arm", resolve(wanted))
    return found.path.name, found.state, notes


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("own_net.py", "nn.Tanh()", "nn.ReLU()"),
        ("own_blocks.py", "WIDTH = 4", "WIDTH = 4  # a comment counts too"),
        ("own_net.py", "nn.Linear(WIDTH, 1))", "nn.Linear(WIDTH, 1, bias=True))"),
    ],
)
def test_a_resume_refuses_edited_code_by_the_name_of_its_file(
    own: Path, name: str, old: str, new: str
) -> None:
    run(config(), out=own / "run")
    before = contents(own / "run")
    edit(own / name, old, new)
    told = rf"{own / name} changed since its rounds were made: .*--accept-changes"
    with pytest.raises(UsageError, match=told):
        resume(own / "run", {"rounds": 3})
    assert contents(own / "run") == before
    assert RunFolder.open(own / "run").config.rounds == 2
    edit(own / name, new, old)
    assert notes_of(own / "run") == []


def test_a_resume_refuses_other_data_and_says_so_when_it_may(own: Path) -> None:
    run(lines(), out=own / "run")
    (own / "slope.txt").write_text("2.5")
    with pytest.raises(UsageError, match="the data changed since its rounds were made"):
        resume(own / "run", {"rounds": 3})
    assert "the data changed" in notes_of(own / "run", accept_changes=True)[0]
    made = made_entries(RunFolder.open(own / "run").info)
    assert [entry["from"] for entry in made] == [1, 3]
    assert made[0]["data"] != made[1]["data"]
    # Accepted once, it is what the run is made with from then on.
    resume(own / "run", {"rounds": 4})
    assert made_entries(RunFolder.open(own / "run").info) == made


def test_code_may_change_while_no_round_is_kept(own: Path) -> None:
    run(config(), out=own / "run")
    for file in (own / "run" / "checkpoints").iterdir():
        file.unlink()
    edit(own / "own_net.py", "Tanh", "ReLU")
    resume(own / "run")
    run(config(), out=own / "new")
    assert contents(own / "run") == contents(own / "new")
    assert RunFolder(own / "run").info["made"] == RunFolder(own / "new").info["made"]


def test_an_old_run_resumes_with_a_note_and_is_never_used_by_a_comparison(own: Path) -> None:
    path = own / "c" / "arm"
    run(config(), out=path)
    folder = RunFolder.open(path)
    old = {key: value for key, value in folder.info.items() if key != "made"}
    (path / "run.json").write_text(json.dumps(old))
    name, state, notes = place(own / "c", config())
    assert (name, state) == ("arm-2", "free")
    assert "it does not record the code and data it was made with: running it again" in notes[0]
    assert "does not record the code and data it was made with" in notes_of(path)[0]
    assert [sorted(entry)[:2] for entry in folder.info["made"]] == [["from"], ["code", "data"]]


def test_a_comparison_makes_a_run_again_beside_one_of_other_code(own: Path) -> None:
    run(config(), out=own / "c" / "arm")
    assert place(own / "c", config()) == ("arm", "finished", [])
    edit(own / "own_blocks.py", "4", "5")
    name, state, notes = place(own / "c", config())
    assert (name, state) == ("arm-2", "free")
    assert notes == [
        f"{own / 'c' / 'arm'}: {own / 'own_blocks.py'} changed: running it again in a new folder"
    ]


def test_a_comparison_makes_a_run_again_that_read_other_data(own: Path) -> None:
    run(lines(), out=own / "c" / "arm")
    run(lines(), out=own / "elsewhere")
    (own / "slope.txt").write_text("-2.0")
    name, state, notes = place(own / "c", lines())
    assert (name, state) == ("arm-2", "free")
    assert [note.partition(": ")[2] for note in notes] == [
        "the data changed: running it again in a new folder",
        "the data changed: not used",
    ]


def test_an_interrupted_run_of_other_code_is_not_resumed(own: Path) -> None:
    run(config(), out=own / "c" / "arm")
    RunFolder(own / "c" / "arm").update_info({"status": "interrupted"})
    assert place(own / "c", config())[:2] == ("arm", "begun")
    edit(own / "own_net.py", "Tanh", "ReLU")
    assert place(own / "c", config())[:2] == ("arm-2", "free")


def test_a_finished_run_without_checkpoints_is_looked_at_as_well(own: Path) -> None:
    run(config(), out=own / "c" / "arm")
    for file in (own / "c" / "arm" / "checkpoints").iterdir():
        file.unlink()
    edit(own / "own_net.py", "Tanh", "ReLU")
    assert place(own / "c", config())[0] == "arm-2"


PLAIN = SHORT | {"rounds": 4}


@pytest.mark.parametrize(
    ("settings", "first", "later", "why"),
    [
        (
            {"server": {"schedule": "cosine"}},
            {"rounds": 2},
            {"rounds": 4},
            "run of 4 rounds, not 2",
        ),
        (
            {"server": {"schedule": "linear"}},
            {"rounds": 3},
            {"rounds": 4},
            "run of 4 rounds, not 3",
        ),
        (
            {"faults": {"rates": {"nan": 0.2}, "seed": 3}},
            {"rounds": 2, "faults": {}},
            {"rounds": 4, "faults": {"rates": {"nan": 0.2}, "seed": 3}},
            "from round 3 on it was made differently (a different fault plan",
        ),
        (
            {"faults": {"rates": {"late": 0.5}}, "timeout": 1.0},
            {"rounds": 2, "timeout": 600.0},
            {"rounds": 4, "timeout": 1.0},
            "timeout = 1.0, not 600.0",
        ),
    ],
)
def test_an_extended_run_is_not_mistaken_for_another(
    tmp_path: Path, settings: dict[str, Any], first: dict[str, Any], later: dict[str, Any], why: str
) -> None:
    wanted = Config(**PLAIN | settings)
    run(wanted, first, out=tmp_path / "mine")
    resume(tmp_path / "mine", later)
    assert RunFolder.open(tmp_path / "mine").config == resolve(wanted), "by its config it is the same"
    run(wanted, out=tmp_path / "straight")
    assert contents(tmp_path / "mine") != contents(tmp_path / "straight")
    name, state, notes = place(tmp_path / "c", wanted)
    assert (name, state) == ("straight", "finished")
    assert notes[0].startswith(f"{tmp_path / 'mine'}: ")
    assert why in notes[0]


@pytest.mark.parametrize(
    "resumed", [{"rounds": 4}, {"rounds": 4, "workers": 2}, {"rounds": 4, "checkpoint_every": 3}]
)
def test_an_extended_run_whose_rounds_are_equal_is_the_same(
    tmp_path: Path, resumed: dict[str, Any]
) -> None:
    wanted = Config(**PLAIN)
    run(wanted, {"rounds": 2}, out=tmp_path / "mine")
    resume(tmp_path / "mine", resumed)
    assert place(tmp_path / "c", wanted) == ("mine", "finished", [])


def test_the_timeout_counts_where_a_reply_can_be_late() -> None:
    for settings, counts in (({}, False), ({"faults": {"rates": {"late": 0.1}}}, True)):
        ours, theirs = (Config(**PLAIN | settings | {"timeout": seconds}) for seconds in (1.0, 2.0))
        assert (run_key(ours) != run_key(theirs)) == counts


A = Made({"net": "1"}, "d", "f", {"engine": "vector"})
B = Made({"net": "1"}, "d", "f", {"engine": "ray"})


@pytest.mark.parametrize(
    ("made", "now", "done", "firsts"),
    [
        ([], A, 0, [1]),
        ([], A, 5, [1, 6]),
        ([A.entry()], A, 5, [1]),
        ([A.entry()], B, 5, [1, 6]),
        ([A.entry()], B, 0, [1]),
        ([A.entry(), B.entry(6)], B, 8, [1, 6]),
        ([A.entry(), B.entry(6)], A, 8, [1, 6, 9]),
        # Nothing of what came after round 5 is kept.
        ([A.entry(), B.entry(6)], A, 5, [1]),
        ([A.entry(), B.entry(6)], B, 3, [1, 4]),
    ],
)
def test_entries_tell_which_rounds_were_made_with_what(
    made: list[dict[str, Any]], now: Made, done: int, firsts: list[int]
) -> None:
    after = continued(made, now, done)
    assert [entry["from"] for entry in after] == firsts
    assert after[-1] == now.entry(firsts[-1])


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (A, None),
        (B, "engine = ray, not vector"),
        (Made({}, "d", "f", {"engine": "vector"}), "module net is no longer used"),
        (
            Made({"net": None}, "d", "f", {"engine": "vector"}),
            "module net has no file, so it may have changed",
        ),
        (Made({"net": "1"}, "e", "f", {"engine": "vector"}), "the data changed"),
        (Made({"net": "1"}, "d", "g", {"engine": "vector"}), "fedmeta's own code changed"),
        (Made({"net": "1"}, None, "f", {"engine": "vector"}), "it is another run"),
    ],
)
def test_each_difference_is_named(wanted: Made, why: str | None) -> None:
    found = difference([A.entry()], wanted)
    assert found == why or (why and found and found.startswith(why))


@pytest.mark.parametrize("damage", [{}, {"made": 3}, {"made": [1]}, {"made": [{"from": "x"}]}])
def test_entries_that_cannot_be_read_are_none(damage: dict[str, Any]) -> None:
    assert made_entries(damage) == []


def test_a_comparison_does_not_finish_with_other_code_than_it_began_with(own: Path) -> None:
    wanted = config()
    made = made_with(wanted, "")
    order = Order(own / "run", wanted.model_dump(), made, False, "tiny", ("fedmeta",))
    edit(own / "own_blocks.py", "4", "6")
    outcome = _carry_out(order, None)  # type: ignore[arg-type]
    assert outcome == (
        "failed",
        f"{own / 'own_blocks.py'} changed since the comparison began: start it again",
    )
    assert RunFolder(own / "run").metrics() == []
