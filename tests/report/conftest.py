"""Runs shared by several modules' reports, made once."""

from pathlib import Path

import pytest

from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.saved_audit import audit
from tests.experiment.helpers import TINY
from tests.report.made import DIGITS, make, make_comparison, make_sinusoid


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose clients are paid for what they contributed, one of which copies another."""
    return make(tmp_path_factory.mktemp("runs") / "digits", DIGITS)


@pytest.fixture(scope="session")
def chained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a chain, audited."""
    settings = TINY | {"rounds": 2, "chain": {"provider": "embedded"}}
    run = make(tmp_path_factory.mktemp("runs") / "chained", settings)
    audit(run / "chain", RunFolder.open(run).config.chain)
    return run


@pytest.fixture(scope="session")
def sinusoid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A regression, without a chain."""
    return make_sinusoid(tmp_path_factory.mktemp("runs") / "sinusoid")


@pytest.fixture(scope="session")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison written by hand, one of whose arms failed."""
    return make_comparison(tmp_path_factory.mktemp("runs") / "compare-quickstart")
