"""Whatever dies and whenever: every participant's balance is that of the undisturbed run, to the unit.

The expected balances come from the synthetic rounds themselves, added up by hand.
"""

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedmeta.chain.ledger.attached import attach
from fedmeta.chain.ledger.journal import JournalView
from fedmeta.chain.providers.opening import open_chain
from tests.chain.ledger.forks import COMPLETE, ForkServer, Run
from tests.chain.ledger.rounds import POT, synthetic_rounds

KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture
def run(provider: str, tmp_path: Path) -> Run:
    return Run(str(tmp_path / "chain"), provider, os.urandom(32).hex())


def expected(run: Run) -> dict[str, int]:
    units: Counter[str] = Counter()
    for frozen in synthetic_rounds(run.rounds, clients=run.clients):
        for c in frozen.contributions:
            units[c.account] += c.reward
    return dict(units)


def require_paid_once(run: Run) -> None:
    """Every account holds what it earned, and the records cover each round once."""
    journal = JournalView(Path(run.folder) / "journal.sqlite")
    with open_chain(run.options, Path(run.folder)) as chain:
        deployed = attach(journal, chain)
        token, ledger = deployed.token, deployed.ledger
        owed = expected(run)
        held = {account: token.call("balanceOf", account) for account in owed}
        assert held == owed
        assert ledger.call("nextRound") == run.rounds + 1
        assert ledger.call("paid") == sum(owed.values())
        assert ledger.call("funded") == run.rounds * POT + ledger.call("DUST")
        records = [(r.first, r.last) for r in journal.records() if r.mined]
        assert [n for a, b in records for n in range(a, b + 1)] == list(range(1, run.rounds + 1))
    journal.close()


def finish(forks: ForkServer, run: Run) -> None:
    assert forks.run(replace(run, kill_at=None, kill_after=None)) == COMPLETE


@pytest.fixture(params=["anvil"])
def provider(request: pytest.FixtureRequest) -> str:
    return "http://127.0.0.1:8599"


def test_an_undisturbed_run_pays_what_the_rounds_award(forks, run):
    finish(forks, run)
    require_paid_once(run)


def test_nothing_is_paid_twice_by_running_again(forks, run):
    finish(forks, run)
    finish(forks, run)
    require_paid_once(run)


def test_a_kill_before_and_after_every_step_of_the_journal(forks, run):
    kills = 0
    # A killed step comes first in the next process: one kill before it, then one after it.
    while forks.run(replace(run, kill_at=1 + kills % 2)) == KILLED:
        kills += 1
        assert kills < 400
    require_paid_once(run)
    assert kills > 60


def killed_at_random(forks: ForkServer, run: Run, moments: int, seed: int) -> int:
    """Kill a run at random moments until it is through; return how often it died."""
    generator, kills = random.Random(seed), 0
    while kills < moments:
        seconds = generator.expovariate(1 / 0.1)
        status = forks.run(replace(run, kill_after=seconds, seed=seed))
        if status == COMPLETE:
            break
        assert status == KILLED
        kills += 1
    return kills


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_moments_with_faults(forks, run, seed):
    killed_at_random(forks, run, 10, seed)
    finish(forks, run)
    require_paid_once(run)


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_moments_with_faults_and_reorganisations(forks, run, seed):
    killed_at_random(forks, replace(run, reorgs=True), 10, seed)
    finish(forks, run)
    require_paid_once(run)
