"""Real chains for the ledger's tests."""

from collections.abc import Iterator

import pytest

from fedmeta.chain.node import start_node
from tests.chain.providers.helpers import start_shared_anvil


@pytest.fixture(scope="session")
def anvil(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an Anvil that the tests of a session share; each has a campaign of its own."""
    with start_shared_anvil(tmp_path_factory.mktemp("anvil")) as node:
        yield node.url


@pytest.fixture(scope="session")
def ganache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Ganache that the tests of a session share."""
    with start_node("ganache", tmp_path_factory.mktemp("ganache")) as node:
        yield node.url
