"""Help, lists, the doctor, completion and refusals import none of the libraries that take seconds."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from fedmeta.config import load_config
from fedmeta.experiment.folder import RunFolder
from fedmeta.parts import ALGORITHMS

HEAVY = ("torch", "flwr", "numpy", "scipy", "sklearn", "web3", "plotly", "starlette")
DONE, REFUSED = 0, 2
COMMANDS = {
    "--help": DONE,
    "-h": DONE,
    "--version": DONE,
    "run quickstart --rounds 5": REFUSED,
    "run quickstart rounds=5": REFUSED,
    "list": DONE,
    "list keys": DONE,
    "list parts": DONE,
    "list algorithms": DONE,
    "list runs": DONE,
    "list comparisons": DONE,
    "data list": DONE,
    "lsit": REFUSED,
    "lsit --json": REFUSED,
    "list part": REFUSED,
    "run": REFUSED,
    "run quickstrat": REFUSED,
    "run mine.toml": REFUSED,
    "run broken.toml": REFUSED,
    "run quickstart --sed 1": REFUSED,
    "run quickstart -s rounds": REFUSED,
    "run quickstart -s roundz=3": REFUSED,
    "run quickstart -s rounds=many": REFUSED,
    "run quickstart -s cohort=1000": REFUSED,
    "run quickstart -s engine=vectr": REFUSED,
    "run quickstart -s training=gosip": REFUSED,
    "run quickstart -s task=digts": REFUSED,
    "run quickstart -s algorithm=mamll": REFUSED,
    "run quickstart -s model=resnet": REFUSED,
    "run quickstart -s model=no_such_module:Net": REFUSED,
    "run quickstart -s data.shot=2": REFUSED,
    "run quickstart -s data.ways=1": REFUSED,
    "run quickstart -s learner.inner_rate=0.1": REFUSED,
    "run quickstart -s learner.inner_lr=0": REFUSED,
    "run quickstart -s network.width=3": REFUSED,
    "run quickstart -s algorithm=protonet -s learner.inner_lr=0.1": REFUSED,
    "run quickstart -s server.optimizer=Adamm": REFUSED,
    "run quickstart -s server.options.beta=1": REFUSED,
    "run quickstart -s server.optimizer=SGD -s server.options.momentum=0.9 -s cohrt=3": REFUSED,
    "run quickstart -s aggregation.rule=medium": REFUSED,
    "run quickstart -s aggregation.rule=krum": REFUSED,
    "run quickstart -s aggregation.trim=0.1": REFUSED,
    "run quickstart -s incentives.rule=shaply": REFUSED,
    "run quickstart -s incentives.shapley.exact=99": REFUSED,
    'run quickstart -s behaviours=[{kind="poisson",clients=[1]}]': REFUSED,
    'run quickstart -s behaviours=[{kind="noise",clients=[1],scal=2}]': REFUSED,
    'run quickstart -s behaviours=[{kind="noise",clients=[999]}]': REFUSED,
    'run quickstart -s postprocessors=[{kind="clip",norm=-1}]': REFUSED,
    "run quickstart -s faults.rates.lat=0.5": REFUSED,
    "run quickstart -s chain.provider=anvl": REFUSED,
    "run quickstart --faults nowhere.toml": REFUSED,
    "run quickstart --out runs/one": REFUSED,
    'run quickstart -s mods=["no_such_module:mod"]': REFUSED,
    'run quickstart -s mods=["clipping"]': REFUSED,
    "run quickstart --faults broken.toml": REFUSED,
    "compare quickstrat": REFUSED,
    "compare quickstart --seeds 0": REFUSED,
    "compare quickstart --jobs 0": REFUSED,
    "compare quickstart -s roundz=3": REFUSED,
    "compare quickstart -s learner.inner_lr=0": REFUSED,
    "compare quickstart --arms federatd": REFUSED,
    "compare quickstart --arm fewer:cohrt=3": REFUSED,
    "resume runs/nothing": REFUSED,
    "resume runs/one -s roundz=9": REFUSED,
    "resume runs/one -s cohort=3": REFUSED,
    "resume runs/one -s rounds=1": REFUSED,
    "report runs/nothing": REFUSED,
    "serve nowhere": REFUSED,
    "adapt runs/nothing --support a --query b": REFUSED,
    "adapt runs/one --support empty --query empty": REFUSED,
    "adapt runs/one --support empt --query empty": REFUSED,
    "adapt runs/one --support runs --query empty": REFUSED,
    "adapt runs/one --support empty --query empty --steps -1": REFUSED,
    "data check empty": REFUSED,
    "data check nowhere": REFUSED,
    "evaluate runs/nothing": REFUSED,
    "evaluate runs/one -s seed=3": REFUSED,
    "evaluate runs/one -s rounds=3": REFUSED,
    "init empty": REFUSED,
    "init nowhere": REFUSED,
    "export runs/nothing": REFUSED,
    "chain status runs/nothing": REFUSED,
    "chain audit runs/nothing": REFUSED,
    "data fetch minst": REFUSED,
    "bench mamll": REFUSED,
}
CALL_EACH = f"""
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from fedmeta.cli.main import main

found = {{}}
for words in json.loads(sys.argv[1]):
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
        try:
            main(words.split())
        except SystemExit as stop:
            code = stop.code
    found[words] = code, said.getvalue(), [name for name in {HEAVY} if name in sys.modules]
print(json.dumps(found))
"""
AT_EXIT = f"""
import atexit, sys
from fedmeta.cli import main

atexit.register(lambda: sys.__stderr__.write("%s" % [name for name in {HEAVY} if name in sys.modules]))
main()
"""
Found = dict[str, tuple[int, str, list[str]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and a broken experiment."""
    folder = tmp_path_factory.mktemp("here")
    RunFolder.create(folder / "runs" / "one", load_config("quickstart"), {"status": "finished"})
    (folder / "broken.toml").write_text('task = "digits\n')
    (folder / "empty").mkdir()
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> Found:
    """Exit code, stderr and what is imported after each of the commands, in one process."""
    done = subprocess.run(
        [sys.executable, "-c", CALL_EACH, json.dumps(list(COMMANDS))],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    result: Found = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_computes_nothing_imports_no_heavy_library(found: Found, command: str) -> None:
    code, said, heavy = found[command]
    assert (code, heavy) == (COMMANDS[command], []), said
    if code == REFUSED:
        assert said.count("\n") == 1 or "Usage" in said


def test_the_table_of_parts_is_what_the_parts_declare(folder: Path) -> None:
    listed = call(folder, "list", "parts", "--json")
    rows = {(row["part"], row["name"]): row["options"] for row in json.loads(listed.stdout)["parts"]}
    assert rows["algorithm", "fedprox"] == "inner_lr=0.01, mu=0.1"
    assert rows["postprocessors.kind", "clip"] == "norm"
    assert rows["training", "local"] == ""


def test_the_table_of_algorithms_is_what_the_classes_declare(folder: Path) -> None:
    """Read without torch; the classes themselves are imported here."""
    listed = json.loads(call(folder, "list", "algorithms", "--json").stdout)["algorithms"]
    for row in listed:
        kind = ALGORITHMS.get(row["name"])
        assert "about" in vars(kind), f"{row['name']} does not say what it is"
        assert row == {
            "name": row["name"],
            **asdict(vars(kind)["about"]),
            "second_order": kind.second_order,
        }
    shown = {row.split()[0]: row for row in call(folder, "list", "algorithms").stdout.splitlines()}
    assert shown.keys() == set(ALGORITHMS)
    assert "second order" in shown["maml"]
    assert "second order" not in shown["fomaml"]


def test_completion_imports_no_heavy_library(folder: Path) -> None:
    asked = {"_FEDMETA_COMPLETE": "complete_bash", "COMP_WORDS": "fedmeta re", "COMP_CWORD": "1"}
    done = call(folder, environment=asked)
    assert done.stdout.split() == ["plain,resume", "plain,report"]
    assert done.stderr.endswith("[]")


def test_the_doctor_imports_no_heavy_library_unless_it_is_to_look_deep(folder: Path) -> None:
    done = call(folder, "doctor", "--json")
    assert done.stderr == "[]"
    checks = {one["check"]: one for one in json.loads(done.stdout)["checks"]}
    assert all(checks[name]["state"] == "ok" for name in ("versions", "flower", "machine", "temporary"))
    assert "messages" not in checks
    deep = {
        one["check"]: one
        for one in json.loads(call(folder, "doctor", "--deep", "--json").stdout)["checks"]
    }
    assert deep["messages"]["state"] == deep["tensors"]["state"] == "ok"


def call(
    folder: Path, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", AT_EXIT, *arguments],
        cwd=folder,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )


def test_pytorch_is_imported_without_collecting_garbage_and_never_looked_through_again() -> None:
    code = (
        "import gc\nfrom fedmeta.cli.commands import import_torch\n"
        "runs = []\ngc.collect()\ngc.callbacks.append(lambda phase, info: runs.append(phase))\n"
        "import_torch()\nprint(len(runs), gc.get_freeze_count() > 100_000, gc.isenabled())"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert said.split() == ["0", "True", "True"]
