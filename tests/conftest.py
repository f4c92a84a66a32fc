"""What several rooms' tests share."""

import sys
from pathlib import Path

import pytest

from tests import processes


def pytest_collection_finish() -> None:
    """Let worker processes be forks, in all tests that do not say otherwise."""
    if launching := sys.modules.get("fedmeta.federation.vector.launch"):
        launching.subprocess = processes  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _no_leaks_from_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A test must not read a cache or write runs outside its own folder.
    monkeypatch.setenv("FEDMETA_CACHE", str(tmp_path / "cache"))
