"""`RunLedger`: records and pays a run's finished rounds on the chain."""

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from fedmeta.chain import (
    ChainOptions,
    open_chain,
    open_client_keys,
    open_keys,
)
from fedmeta.chain.chain import require_rules
from fedmeta.chain.options import expand
from fedmeta.chain.settle.campaign import JOURNAL, new_campaign
from fedmeta.chain.settle.deployment import deploy_to_file, journal_beside
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
"""How long it waits for a chain that does not answer."""


def new_run_id(config: Config) -> bytes:
    """Return the id of a new run, which its clients sign.

    Where clients have their own accounts it is random, so that a node's signature in one run is not
    valid in another; but contracts deployed in advance are for a given run id.
    """
    if config.chain.addresses:
        return _deployed_for(config, Path(config.chain.addresses))
    known = run_id(config)
    if config.engine != "deployment":
        return known
    return hashlib.sha256(known + secrets.token_bytes(32)).digest()


def run_id(config: Config) -> bytes:
    """Return the id of a config, which depends on what its runs compute and pay but not where."""
    return identity.run_id(parts.without_defaults(config))


def former_run_id(config: Config) -> bytes:
    """Return the id that earlier versions gave a config: a hash of its whole text.

    It is for old runs that do not record their id. Later options of a part change it, and so do later
    keys that are set.
    """
    elsewhere = {"workers": "auto", "tracking": "none", "engine": "vector", "ray": RayOptions()}
    elsewhere["deployment"] = DeploymentOptions()
    what = config.model_copy(update=elsewhere | {"chain": ChainOptions(pot=config.chain.pot)})
    later: dict[str, Any] = {"device": True, "kernels": True}
    later |= {"compare": {"search": True, "search_share": True, "built_in": True}}
    later |= {} if config.postprocessors else {"postprocessors": True}
    tested = {"head": config.evaluation.head, "stream": config.evaluation.stream.segments}
    later["evaluation"] = {"explain": True} | {key: True for key, used in tested.items() if not used}
    return hashlib.sha256(b"fedmeta run\n" + to_toml(what, later).encode()).digest()


def _deployed_for(config: Config, file: Path) -> bytes:
    """Return the run id of the contracts in a file, or of those to be deployed.

    Contracts that an earlier version deployed, or began to, keep that version's id.

    Raises:
        UsageError: If the file is not an address file.
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
    """Reads a run's finished rounds from its logs, each once, for the ledger.

    Frozen rounds come only from the files, so that an audit of the files can reproduce every byte.

    Args:
        folder: The run's folder.
        on_row: Called with each row of ``clients.jsonl`` and its bytes.
    """

    def __init__(self, folder: Path, on_row: Callable[[ClientRow, bytes], object]) -> None:
        self._on_row = on_row
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
                self._on_row(row, line)
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
    """A run's settlement and its clients' signatures.

    Args:
        folder: The run's folder, locked by this process.
        config: The run's config, with a chain.
        note: Called with a line about each problem that delays payment.

    Raises:
        UsageError: If keys are missing, the journal belongs to another run or is in use, or the budget
            of a deployed campaign is too small.
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
        self._rounds = FinishedRounds(folder.path, self._blame)
        self._slashing = SlashingPolicy(options.staking.slash_after)
        self._staking = options.staking.enabled
        self._participants = range(parts.population(config).train)
        self._slashed: list[tuple[str, bytes]] = []
        self.settlement = Settlement(
            folder.path / "chain", options, run, budget_units(config), Hooks(note=self._say)
        )

    def __exit__(self, *_: object) -> None:
        self.settlement.close()

    def start(self) -> None:
        """Freeze the finished rounds, and start settling in the background.

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
        # Held back until the start has succeeded: an error that ends the start says it all.
        if self._untold is None:
            self._note(line)
        else:
            self._untold.append(line)

    def covered(self, _: int = 0) -> None:
        """Freeze the rounds that a checkpoint now covers."""
        self.settlement.freeze(list(self._rounds.next()))
        while self._slashed:
            self.settlement.slash(*self._slashed.pop(0))

    def _blame(self, row: ClientRow, line: bytes) -> None:
        blamed = self._staking and at_fault(row)
        found = self._slashing.blame(row["client"], line) if blamed else None
        if found:
            client, evidence = found
            self._slashed.append((self.signatures.account(client), evidence))

    def finish(self) -> Settled:
        """Settle the remaining rounds, as far as possible within a time limit."""
        return self.settlement.finish(AWAY_SECONDS if self.settlement.problem else FINISH_SECONDS)


def preflight(config: Config) -> None:
    """Check the chain settings of a new run before it exists.

    Raises:
        UsageError: If the extra, a key or a variable in the node's URL is missing, or a named node does
            not answer, is on another chain, or has rules that are too old for the contracts.
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
    """Set a run's campaign aside; its rounds will be recorded and paid on new contracts.

    Raises:
        UsageError: If there is no campaign.
    """
    run = _run_of(folder, config)
    new_campaign(folder.path / "chain", config.chain, run, budget_units(config))


def _run_of(folder: RunFolder, config: Config) -> bytes:
    """Return the id of an existing run: the recorded one if there is one, else derived.

    Raises:
        UsageError: If it is not recorded and cannot be derived.
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
        raise UsageError(f"{folder.path}: run.json does not have the run id that its nodes signed")
    # Correct unless the run was extended.
    former = former_run_id(config)
    keys = open_client_keys(config.chain, None, former)
    paid = next((row for row in folder.clients() if row.get("account")), None)
    return former if paid and keys.address(paid["client"]) == paid["account"] else run_id(config)


def budget_units(config: Config) -> int:
    """Return the token units that a run's sponsor puts in escrow."""
    return (config.chain.budget or config.chain.pot * config.rounds) * UNITS


def deploy(config: Config, file: Path) -> tuple[Addresses, bool]:
    """Deploy an experiment's contracts and write their addresses, unless this has been done.

    Args:
        config: The experiment's config, whose provider is a node's URL.
        file: The address file, existing or new.

    Returns:
        The addresses, and whether they are new.

    Raises:
        UsageError: If the provider is not a URL, and as `deploy_to_file`.
    """
    config = planning.resolve(config)
    if not config.chain.is_url:
        raise UsageError(
            f"chain.provider = '{config.chain.provider}': contracts can only be deployed before a run "
            "to a node with a URL; start one with `fedmeta chain up`"
        )
    run = _deployed_for(config, file)
    return deploy_to_file(file, config.chain, run, budget_units(config), file.parent)
