"""docs/how-it-works.md names every file and field that a run leaves, and every reason of the gate."""

import json
import re
from pathlib import Path

import pytest

from fedmeta.experiment import run
from fedmeta.federation.refusal import RefusalCode

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
TINY = {
    "rounds": 2,
    "cohort": 3,
    "validation_clients": 1,
    "workers": 1,
    "checkpoint_every": 1,
    "evaluation.every": 2,
    "evaluation.tasks": 2,
}


def column(heading: str, place: int = 0) -> list[str]:
    """The code in one column of the table under a heading; cells without any are left out."""
    section = re.split(r"^#+ ", PAGE.partition(f" {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    cells = [line.split("|")[place + 1].strip() for line in section.splitlines() if line[:1] == "|"]
    return [cell.strip("`") for cell in cells if cell.startswith("`")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = TINY | {"chain.provider": "embedded", "evaluation.stream.segments": 2}
    return run("quickstart", settings, out=tmp_path_factory.mktemp("runs") / "run").run


def test_every_file_of_a_run_is_listed(folder: Path) -> None:
    assert sorted(name.rstrip("/") for name in column("The run folder")) == sorted(
        path.name for path in folder.iterdir()
    )


@pytest.mark.parametrize("log", ["metrics.jsonl", "clients.jsonl"])
def test_every_field_of_a_log_is_explained(folder: Path, log: str) -> None:
    rows = [json.loads(line) for line in (folder / log).read_text().splitlines()]
    assert column(f"`{log}`") == list(rows[0])


def test_every_field_of_run_json_is_explained(folder: Path) -> None:
    info = json.loads((folder / "run.json").read_text())
    assert sorted(column("`run.json`")) == sorted(info)
    assert column("By adaptation step") == list(info["final"][0])


def test_every_field_of_a_manifest_is_explained(folder: Path) -> None:
    manifest = json.loads((folder / "checkpoints" / "round-000002.json").read_text())
    assert sorted(column("Manifest")) == sorted(manifest)


def test_every_reason_of_the_gate_is_listed() -> None:
    # Those of the evaluation are in no log, and the gate itself writes none of the others.
    others = ("unknown", "other", "metric_not_finite")
    codes = [c for c in RefusalCode if c not in others and not c.startswith("evaluation_")]
    codes_of, reasons = (column("The admission gate", place) for place in (1, 2))
    assert dict(zip(codes_of, reasons, strict=True)) == {
        code: re.sub(r"\{.*?\}", "…", code.template) for code in codes
    }
