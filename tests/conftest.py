"""What several rooms' tests share."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _no_leaks_from_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A test must not read a cache or write runs outside its own folder.
    monkeypatch.setenv("FEDMETA_CACHE", str(tmp_path / "cache"))
