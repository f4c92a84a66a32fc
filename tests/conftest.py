"""Fixtures shared by several packages' tests."""

import gc
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from tests import processes

# A machine may be busy, and no test is about time.
settings.register_profile("fedmeta", deadline=None)
settings.load_profile("fedmeta")


def pytest_configure(config: pytest.Config) -> None:
    # No test cuts the power.
    os.fsync = lambda _: None
    worker = hasattr(config, "workerinput")
    if worker or not config.getoption("numprocesses", None):
        # Until all tests are collected: nothing that is imported is garbage.
        gc.disable()
    if not worker:
        config.add_cleanup(processes.start_server())


def pytest_collection_finish() -> None:
    """Let worker processes be forks, unless a test disables that."""
    gc.freeze()
    gc.enable()
    if launching := sys.modules.get("fedmeta.federation.engines.vector.jobs"):
        launching.subprocess = processes  # type: ignore[attr-defined]


@pytest.fixture(autouse=True, scope="session")
def _state_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    # Runs are made here for all the tests, some of which share them, and not by this machine's user.
    os.environ["FEDMETA_STATE"] = str(tmp_path_factory.mktemp("state") / "fedmeta")


@pytest.fixture(autouse=True)
def _no_leaks_from_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A test must not read a cache or write runs outside its own folder.
    monkeypatch.setenv("FEDMETA_CACHE", str(tmp_path / "cache"))
