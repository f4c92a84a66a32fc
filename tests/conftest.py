"""What several rooms' tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _no_leaks_from_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A test must not read a cache or write runs outside its own folder.
    monkeypatch.setenv("FEDMETA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def real_data() -> Path:
    """The folder of real data; the test is skipped where there is none."""
    folder = os.environ.get("FEDMETA_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs FEDMETA_DATA, a folder with the real data sets")
    return Path(folder).resolve()
