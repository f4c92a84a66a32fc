"""Whatever dies and whenever: every participant's balance is that of the undisturbed run, to the unit.

The expected balances come from the synthetic rounds themselves, added up by hand.
"""

import os
import random
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from fedmeta.chain.chain import open_chain
from fedmeta.chain.contracts import Contract
from fedmeta.chain.hashing import created_address
from fedmeta.chain.settle.deployment import attach
from fedmeta.chain.settle.journal import JournalView
from tests.chain.settle.forks import COMPLETE, Run, execute
from tests.chain.settle.rounds import POT, synthetic_rounds

KILLED = -signal.SIGKILL
REORGS = {"embedded": "evm_revert", "anvil": "anvil_reorg", "ganache": "evm_revert"}
"""How blocks vanish on each chain."""

MEAN_LIFE = {"embedded": 0.5, "anvil": 0.15, "ganache": 0.6}
"""Mean seconds until a process is killed: most die with work half done, and some get on."""

EVERYWHERE = ["embedded", "anvil", pytest.param("ganache", marks=pytest.mark.slow)]


def mostly_on(chain: str) -> pytest.MarkDecorator:
    """On this chain by default; on all of them in the slow tests."""
    others = [name for name in REORGS if name != chain]
    slow = [pytest.param(name, marks=pytest.mark.slow) for name in others]
    return pytest.mark.parametrize("chain", [chain, *slow], indirect=True)


@pytest.fixture(params=EVERYWHERE)
def chain(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def run(chain: str, request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    provider = chain if chain == "embedded" else request.getfixturevalue(chain)
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
        ledger, owed = deployed.ledger, expected(run)
        tokens = [Contract(chain, deployed.token.artifact, a) for a in tokens_of(journal)]
        assert deployed.token in tokens
        # In every token that was ever deployed for the campaign, were there more than one.
        held = {a: sum(t.call("balanceOf", a) for t in tokens if t.exists) for a in owed}
        assert held == owed
        assert ledger.call("paid") == sum(owed.values())
        assert ledger.call("funded") == run.rounds * POT + ledger.call("DUST")
        assert ledger.call("nextRound") == run.rounds + 1
    records = [(r.first, r.last) for r in journal.records() if r.mined]
    assert [n for a, b in records for n in range(a, b + 1)] == list(range(1, run.rounds + 1))
    journal.close()


def tokens_of(journal: JournalView) -> set[str]:
    """Addresses of all tokens that the run's processes tried to deploy."""
    query = "SELECT sender, nonce FROM transactions WHERE action LIKE 'deploy FedToken%'"
    return {created_address(*row) for row in journal.rows(query)}


def finish(run: Run) -> None:
    assert execute(replace(run, kill_at=None, kill_on=None, kill_after=None, seed=None)) == COMPLETE


def killed_at_random(run: Run, moments: int, mean_life: float) -> int:
    """Kill a run at random moments until it finishes; return the number of kills."""
    generator, kills = random.Random(run.seed), 0
    while kills < moments:
        status = execute(replace(run, kill_after=generator.expovariate(1 / mean_life)))
        if status == COMPLETE:
            break
        assert status == KILLED
        kills += 1
    return kills


def test_an_undisturbed_run_pays_what_the_rounds_award(run):
    finish(run)
    require_paid_once(run)


def test_nothing_is_paid_twice_by_running_again(run):
    finish(run)
    finish(run)
    require_paid_once(run)


STEPS = [
    *("campaign", "freeze", "bind", "terms", "transaction"),
    *("sent", "mined", "deployed", "sign", "recorded"),
]
"""The journal's durable steps, from an empty file to a recorded round."""


@mostly_on("anvil")
def test_a_kill_before_and_after_every_kind_of_step(run, tmp_path):
    for event in [f"{when} {step}" for step in STEPS for when in ("before", "after")]:
        folder = str(tmp_path / event / "chain")
        this = replace(run, folder=folder, run=os.urandom(32).hex(), rounds=3)
        assert execute(replace(this, kill_on=event)) == KILLED, event
        finish(this)
        require_paid_once(this)


@mostly_on("anvil")
def test_a_run_that_is_killed_repeatedly_finishes(run):
    # A killed step comes first in the next process: one or two events on, it is killed again.
    for kills in range(200):
        if execute(replace(run, kill_at=1 + kills % 2)) != KILLED:
            break
    assert 50 < kills < 199
    require_paid_once(run)


@pytest.mark.parametrize("reorgs", [False, True])
def test_kills_at_random_moments_with_faults(run, chain, reorgs):
    run = replace(run, seed=1, reorgs=REORGS[chain] if reorgs else None)
    killed_at_random(run, 5, MEAN_LIFE[chain])
    finish(run)
    require_paid_once(run)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("chain", ["embedded", "anvil"], indirect=True)
def test_200_kills_at_random_moments_with_faults(run, chain, tmp_path):
    kills, seed = 0, 0
    while kills < 200:
        seed += 1
        this = replace(run, run=os.urandom(32).hex(), folder=str(tmp_path / f"run-{seed}" / "chain"))
        faulty = replace(this, seed=seed, reorgs=REORGS[chain] if seed % 2 else None)
        kills += killed_at_random(faulty, 200 - kills, MEAN_LIFE[chain])
        finish(this)
        require_paid_once(this)


@pytest.mark.slow
@pytest.mark.parametrize("chain", ["embedded", "anvil"], indirect=True)
def test_every_single_step_killed_in_a_run_of_its_own(run, tmp_path):
    event, status = 0, KILLED
    while status == KILLED:
        event += 1
        folder = str(tmp_path / f"run-{event}" / "chain")
        this = replace(run, folder=folder, run=os.urandom(32).hex(), rounds=3)
        status = execute(replace(this, kill_at=event))
        finish(this)
        require_paid_once(this)
    assert status == COMPLETE
    assert event > 70


@pytest.mark.parametrize("own", ["anvil", pytest.param("ganache", marks=pytest.mark.slow)])
def test_a_node_of_ours_that_dies_with_the_run(own, tmp_path):
    run = Run(str(tmp_path / "chain"), own, os.urandom(32).hex(), seed=4)
    killed_at_random(run, 4, 0.8)
    finish(run)
    require_paid_once(run)
