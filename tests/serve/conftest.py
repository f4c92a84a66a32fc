"""A folder of runs: real ones, a comparison, damaged ones, and hostile names."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import browser, open_page  # noqa: F401
from tests.experiment.helpers import TINY
from tests.report.made import DIGITS, EVIL, make, make_comparison
from tests.serve.serving import Served, copy, edit, serving

OUTSIDE = "a secret of another folder"


@pytest.fixture(scope="session")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder; tests must not change it."""
    base = tmp_path_factory.mktemp("serve")
    root = base / "runs"
    root.mkdir()
    digits = make(root / "digits-001", DIGITS)
    make(root / "chained", TINY | {"rounds": 2, "chain": {"provider": "embedded"}})
    make_comparison(root / "compare-quickstart")
    shutil.copytree(digits, root / "compare-quickstart" / "federated-seed0", dirs_exist_ok=True)
    _damage(digits, root)
    outside = shutil.copytree(digits, base / "outside")
    (outside / "config.toml").write_text(OUTSIDE)
    (root / "linked").symlink_to(outside)
    (copy(digits, root / "linked-file") / "report.html").symlink_to(outside / "config.toml")
    for toml in root.glob("*.toml"):
        toml.unlink()
    return root


def _damage(run: Path, root: Path) -> None:
    edit(copy(run, root / EVIL.replace("/", "|")), status="failed", error=EVIL, experiment=EVIL)
    (copy(run, root / "no-json") / "run.json").write_text('{"status": "fini')
    with (copy(run, root / "half-written") / "metrics.jsonl").open("a") as log:
        log.write('{"round": 7, "loss": 0.')
    edit(root / "half-written", status="running", final=[])
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy(run, root / "bad-line") / "metrics.jsonl").write_text("".join([*rows[:2], "?\n", *rows[3:]]))
    with (copy(run, root / "of-another-version") / "config.toml").open("a") as config:
        config.write("\n[warp]\nspeed = 9\n")
    empty = root / "nothing-but-a-log"
    empty.mkdir()
    (empty / "metrics.jsonl").write_text(json.dumps({"round": "seven"}) + "\n")


@pytest.fixture(scope="module")
def served(gallery: Path) -> Iterator[Served]:
    """The folder, served."""
    with serving(gallery) as site:
        yield site


@pytest.fixture
def own(gallery: Path, tmp_path: Path) -> Path:
    """A folder with one run, for a test that changes it."""
    root = tmp_path / "runs"
    root.mkdir()
    copy(gallery / "digits-001", root / "one")
    return root
