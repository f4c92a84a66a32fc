"""Contracts that are compiled once."""

from pathlib import Path

import pytest

from tests.contracts.workshop import ALWAYS, forge, planted


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled workshop with two bugs in its sources, and the shipped bytecode beside them."""
    contracts = planted(ALWAYS, tmp_path_factory.mktemp("contracts"))
    done = forge(contracts, "build")
    assert done.returncode == 0, done.stderr
    return contracts
