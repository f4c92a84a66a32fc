"""The run's side of the ledger: which finished rounds it is told of, and what came of them."""

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, suppress
from itertools import groupby
from pathlib import Path

from fedmeta.chain import (
    ChainOptions,
    open_chain,
    open_client_keys,
    open_keys,
)
from fedmeta.chain.chain import require_rules
from fedmeta.chain.options import expand
from fedmeta.chain.settle.campaign import JOURNAL, new_campaign
from fedmeta.chain.settle.deploying import deploy_to_file, journal_beside
from fedmeta.chain.settle.journal import JournalView
from fedmeta.chain.settle.journal_rows import Contribution, FrozenRound
from fedmeta.chain.settle.settlement import Hooks, Settled, Settlement
from fedmeta.chain.settle.store import DamagedJournalError
from fedmeta.chain.settle.terms import Addresses, read_addresses
from fedmeta.config import Config, identity, parts, to_toml
from fedmeta.errors import UsageError
from fedmeta.experiment import planning
from fedmeta.experiment.accounts import RosterSignatures, open_signatures, require_same_accounts
from fedmeta.experiment.client_totals import UNITS
from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.rows import CLIENTS, METRICS, ClientRow, at_fault
from fedmeta.federation import DeploymentOptions, RayOptions
from fedmeta.files import open_file
from fedmeta.incentives.rewards import SlashingPolicy

FINISH_SECONDS = 120.0
"""How long a finished run waits for a chain that answers."""
AWAY_SECONDS = 5.0
"""How long it waits for one that is away."""


def new_run_id(config: Config) -> bytes:
    """Return the id that the clients of a new run sign under.

    Where they have accounts of their own it is drawn anew for each run, so that what a node signed in
    one is good in no other; but contracts that were deployed ahead are made for a run that is known.
    """
    if config.chain.addresses:
        return _deployed_for(config, Path(config.chain.addresses))
    known = run_id(config)
    if config.engine != "deployment":
        return known
    return hashlib.sha256(known + secrets.token_bytes(32)).digest()


def run_id(config: Config) -> bytes:
    """Return the id of a config: of what its runs compute and pay, not of where."""
    return identity.run_id(parts.concise(config))


def former_run_id(config: Config) -> bytes:
    """Return the id that a config had before: of its whole text, so of every key that there was.

    For what was begun then, and does not say its id. An option of a part that came later gives another
    one, and so does a key that came later and is set.
    """
    elsewhere = {"workers": "auto", "tracking": "none", "engine": "vector", "ray": RayOptions()}
    elsewhere["deployment"] = DeploymentOptions()
    what = config.model_copy(update=elsewhere | {"chain": ChainOptions(pot=config.chain.pot)})
    later = {"device"} if config.postprocessors else {"device", "postprocessors"}
    return hashlib.sha256(b"fedmeta run\n" + to_toml(what, later).encode()).digest()


def _deployed_for(config: Config, file: Path) -> bytes:
    """Return the id of the run that the contracts in a file are for, or are to be deployed for.

    An earlier version gave the same config another id. What it deployed, or began to, keeps that.

    Raises:
        UsageError: If the file is something else.
    """
    former, begun = former_run_id(config), journal_beside(file)
    if file.is_file():
        known = read_addresses(file).run
    elif begun.is_file():
        with closing(JournalView(begun)) as view:
            known = view.campaign.run if view.campaign else b""
    else:
        known = b""
    return former if known == former else run_id(config)


class FinishedRounds:
    """Reads a run's finished rounds from its logs, each once, as the ledger freezes them.

    What is frozen comes from the files and from nowhere else, so that an audit of the files can find
    every byte of it again.

    Args:
        folder: The run's folder.
        look: Called with each row of ``clients.jsonl`` and its bytes.
    """

    def __init__(self, folder: Path, look: Callable[[ClientRow, bytes], object]) -> None:
        self._look = look
        self._clients = folder / CLIENTS.name
        self._metrics = folder / METRICS.name
        self._read = {self._clients: 0, self._metrics: 0}

    def next(self) -> Iterator[FrozenRound]:
        """Yield the rounds that were logged since the last call."""
        models = {
            row["round"]: bytes.fromhex(row["model"])
            for row in map(METRICS.parse, self._new_lines(self._metrics))
        }
        rows = ((CLIENTS.parse(line), line) for line in self._new_lines(self._clients))
        for round_, group in groupby(rows, key=lambda pair: pair[0]["round"]):
            evidence = hashlib.sha256()
            contributions = []
            for row, line in group:
                evidence.update(line)
                self._look(row, line)
                if row["admitted"]:
                    contributions.append(_contribution(row))
            yield FrozenRound(round_, models[round_], evidence.digest(), tuple(contributions))

    def _new_lines(self, path: Path) -> list[bytes]:
        with open_file(path) as file:
            file.seek(self._read[path])
            lines = file.readlines()
            self._read[path] = file.tell()
        return lines


def _contribution(row: ClientRow) -> Contribution:
    score = row["score"]
    return Contribution(
        client=int(str(row["client"])),
        account=str(row["account"]),
        tasks=int(str(row["tasks"])),
        update=bytes.fromhex(str(row["update"])),
        signature=bytes.fromhex(str(row["signature"])),
        score=None if score is None else float(str(score)),
        reward=int(str(row["reward"] or 0)),
    )


class RunLedger(AbstractContextManager["RunLedger"]):
    """A run's settlement, its clients' signatures, and what of the run is frozen so far.

    Args:
        folder: The run's folder, locked by this process.
        config: The run's config; it has a chain.
        note: Called with a line about each thing that delays payment.

    Raises:
        UsageError: If keys are missing, the journal is not this run's or is in use, or the budget of a
            deployed campaign is too small.
        RunError: If the journal is damaged.
    """

    def __init__(self, folder: RunFolder, config: Config, note: Callable[[str], None]) -> None:
        options = config.chain
        run = _run_of(folder, config)
        self._note = note
        self._untold: list[str] | None = []
        self.signatures = open_signatures(config, run)
        if isinstance(self.signatures, RosterSignatures):
            require_same_accounts(folder, self.signatures)
        self._rounds = FinishedRounds(folder.path, self._look)
        self._conduct = SlashingPolicy(options.staking.slash_after)
        self._staking = options.staking.enabled
        self._participants = range(parts.population(config).train)
        self._slashed: list[tuple[str, bytes]] = []
        self.settlement = Settlement.open(
            folder.path / "chain", options, run, budget_units(config), Hooks(note=self._say)
        )

    def __exit__(self, *_: object) -> None:
        self.settlement.close()

    def start(self) -> None:
        """Freeze what the run has finished so far, and begin to settle in the background.

        Raises:
            UsageError: If the settlement can never work: the wrong chain, an unfunded account.
        """
        if self._staking:
            self.settlement.stake([self.signatures.account(one) for one in self._participants])
        self.covered()
        self.settlement.start()
        self.settlement.check()
        untold, self._untold = self._untold or [], None
        for line in untold:
            self._note(line)

    def _say(self, line: str) -> None:
        # What ends a run at its start is told by the error that ends it.
        if self._untold is None:
            self._note(line)
        else:
            self._untold.append(line)

    def covered(self, _: int = 0) -> None:
        """Freeze the rounds that a checkpoint has come to cover."""
        self.settlement.freeze(list(self._rounds.next()))
        while self._slashed:
            self.settlement.slash(*self._slashed.pop(0))

    def _look(self, row: ClientRow, line: bytes) -> None:
        blamed = self._staking and at_fault(row)
        found = self._conduct.blame(row["client"], line) if blamed else None
        if found:
            client, evidence = found
            self._slashed.append((self.signatures.account(client), evidence))

    def finish(self) -> Settled:
        """Settle what is left, as far as the chain lets us in a reasonable time."""
        return self.settlement.finish(AWAY_SECONDS if self.settlement.problem else FINISH_SECONDS)


def preflight(config: Config) -> None:
    """Look at what a new run asks of a chain, before there is a run.

    Raises:
        UsageError: If the extra, a key or a variable in the node's URL is missing, or a node that was
            named does not answer, is of another chain, or has rules that are too old for the contracts.
    """
    options = config.chain
    open_signatures(config, run_id(config))
    if options.is_url:
        expand(options.provider, os.environ)
    if options.is_url and options.required:
        with open_chain(options, Path()) as chain:
            open_keys(options, chain.chain_id)
            require_rules(chain)


def start_over(folder: RunFolder, config: Config) -> None:
    """Put a run's campaign aside; its rounds will be recorded and paid on new contracts.

    Raises:
        UsageError: If there is no campaign.
    """
    run = _run_of(folder, config)
    new_campaign(folder.path / "chain", config.chain, run, budget_units(config))


def _run_of(folder: RunFolder, config: Config) -> bytes:
    """Return the id of a run that there is: it is never that of its config if a file says it.

    Raises:
        UsageError: If none does, and it cannot be worked out again.
    """
    known = folder.info.get("run_id", "")
    if re.fullmatch("[0-9a-f]{64}", known):
        return bytes.fromhex(known)
    journal = folder.path / "chain" / JOURNAL
    if journal.is_file():
        with suppress(DamagedJournalError), closing(JournalView(journal)) as view:
            if view.campaign:
                return view.campaign.run
    if config.engine == "deployment":
        raise UsageError(f"{folder.path}: run.json does not say what its nodes signed under")
    # Right unless the run was extended.
    former = former_run_id(config)
    keys = open_client_keys(config.chain, None, former)
    paid = next((row for row in folder.clients() if row.get("account")), None)
    return former if paid and keys.address(paid["client"]) == paid["account"] else run_id(config)


def budget_units(config: Config) -> int:
    """Return the token units that a run's sponsor puts in escrow."""
    return (config.chain.budget or config.chain.pot * config.rounds) * UNITS


def deploy(config: Config, file: Path) -> tuple[Addresses, bool]:
    """Put the contracts of an experiment on a node and write their addresses, or find that it was done.

    Args:
        config: The experiment's; its provider is a node's URL.
        file: Where the addresses are, or go to.

    Returns:
        The addresses, and whether they are new.

    Raises:
        UsageError: If the provider is no URL, and as `deploy_to_file`.
    """
    config = planning.resolve(config)
    if not config.chain.is_url:
        raise UsageError(
            f"chain.provider = '{config.chain.provider}': contracts can be deployed ahead of a run to a "
            "node with a URL alone; start one with `fedmeta chain up`"
        )
    run = _deployed_for(config, file)
    return deploy_to_file(file, config.chain, run, budget_units(config), file.parent)
