"""The commands of docs/your-own-data.md work from folders and a table to labels."""

import re
import runpy
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_main import call

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "your-own-data.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
]
IN_PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SHORT = {"drawings": "network.width=8", "words": "network.width=8", "doses": "rounds=20"}
"""What makes a run short, beside few rounds."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert COMMANDS[0] == "python docs/make_own_data.py"
        runpy.run_path(str(DOCS / "make_own_data.py"), run_name="__main__")
    return folder


@pytest.mark.parametrize("name", SHORT)
def test_four_commands_lead_to_labels(
    name: str, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made)
    monkeypatch.setenv("FEDMETA_CACHE", str(made / "cache"))
    mine = [shlex.split(line)[1:] for line in COMMANDS if name in line and line.startswith("fedmeta")]
    assert [words[:2] if words[0] == "data" else words[:1] for words in mine] == [
        ["data", "check"],
        ["init"],
        ["run"],
        ["adapt"],
    ]
    said = {}
    for words in mine:
        short = ["-s", "rounds=5", "-s", "workers=1", "-s", SHORT[name], "-s", "evaluation.tasks=3"]
        assert call(*words, *(short if words[0] == "run" else [])) == 0
        said[words[0]] = capsys.readouterr().out
    if name == "drawings":
        assert f"```text\n{said['data']}```" in PAGE
    last = said["adapt"].splitlines()[-1]
    if name == "doses":
        # A patient's own scores differ by several times that.
        assert float(last.removeprefix("mean absolute error of score ")) < 3.0
    else:
        assert float(last.split()[1]) > 0.6


@pytest.mark.parametrize("block", range(len(IN_PYTHON)))
def test_the_python_of_the_page_runs_in_the_same_folder(
    block: int, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "datasets" in IN_PYTHON[block] and not find_spec("flwr_datasets"):
        pytest.skip("needs the extra `datasets`")
    monkeypatch.chdir(made)
    monkeypatch.setenv("FEDMETA_CACHE", str(made / "cache"))
    monkeypatch.setenv("HF_HOME", str(made / "cache"))
    if not Path("doses.toml").exists():
        assert call("init", "doses.csv") == 0
    shown: dict[str, Any] = {}
    exec(IN_PYTHON[block], shown)
    assert shown["result"].rounds == 20
    assert shown["data"]["data.path"].startswith(str(made))
