"""One chain of each kind per module, because starting them is slow."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmeta.chain import Chain
from fedmeta.chain.chain import open_chain
from tests.chain.providers.helpers import deploy_token, options

PROVIDERS = ("embedded", "anvil", "ganache")


@pytest.fixture(scope="module", params=PROVIDERS)
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    with open_chain(options(request.param), folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def token(chain: Chain) -> str:
    return deploy_token(chain)


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)
