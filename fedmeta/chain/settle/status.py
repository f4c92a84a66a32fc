"""Status of a deployed campaign: records, awards, payments, stakes, events and gas."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmeta.chain.chain import open_chain
from fedmeta.chain.contracts import Contract
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.settle.campaign import JOURNAL
from fedmeta.chain.settle.claims import Proof, proofs
from fedmeta.chain.settle.deployment import Deployed, attach
from fedmeta.chain.settle.journal import JournalView
from fedmeta.errors import FedmetaError


@dataclass(frozen=True)
class Happened:
    """An event of a campaign's contracts; bytes are 0x text.

    Attributes:
        block: Number of its block.
        place: Its index among the block's events.
        transaction: Hash of the transaction that caused it.
    """

    block: int
    place: int
    contract: str
    event: str
    transaction: str
    arguments: Mapping[str, object]


def events(folder: Path, options: ChainOptions) -> "list[Happened]":
    """Return all events of a campaign's contracts, decoded, oldest first; see `attached` for errors."""
    with closing(JournalView(folder / JOURNAL)) as journal, open_chain(options, folder) as chain:
        contracts, since = attach(journal, chain).contracts, journal.founded.block
        found = [event for one in contracts for event in _happened(one, since)]
    return sorted(found, key=lambda event: (event.block, event.place))


def _happened(contract: Contract, since: int) -> "list[Happened]":
    names = [entry["name"] for entry in contract.artifact.abi if entry["type"] == "event"]
    return [
        Happened(
            event["blockNumber"],
            event["logIndex"],
            contract.artifact.name,
            name,
            event["transactionHash"].to_0x_hex(),
            {key: _plain(value) for key, value in event["args"].items()},
        )
        for name in names
        for event in contract.events(name, since)
    ]


def _plain(value: object) -> object:
    return f"0x{value.hex()}" if isinstance(value, bytes) else value


@dataclass(frozen=True)
class Slashed:
    """One slashing of a stake: token units, and the hash of the evidence as 0x text."""

    units: int
    evidence: str


@dataclass(frozen=True)
class Participant:
    """One account; amounts in token units. None: the chain is down.

    Attributes:
        client: Its partition id.
        frozen: Awarded by all frozen rounds.
        awarded: Awarded by records on the chain.
        claimed: Claimed so far.
        stake: Its stake; 0 without staking.
        proof: Arguments of its own claim; None if no record awards it anything.
    """

    client: int
    account: str
    frozen: int
    awarded: int
    claimed: int | None = None
    balance: int | None = None
    stake: int | None = None
    slashes: tuple[Slashed, ...] | None = None
    proof: Proof | None = None

    @property
    def unclaimed(self) -> int | None:
        """Units it can still claim, now or after the challenge delay."""
        return None if self.claimed is None else self.awarded - self.claimed


@dataclass(frozen=True)
class Escrow:
    """The ledger's accounts on the chain, in token units.

    Attributes:
        awarded: Awarded by records, plus the one unit that the ledger keeps.
        next_round: First round of the next record.
        epoch: Vetoes so far.
        deadline: Chain time after which the sponsor may take back unawarded tokens.
    """

    funded: int
    awarded: int
    paid: int
    next_round: int
    epoch: int
    deadline: int


@dataclass(frozen=True)
class Status:
    """Status of a campaign; ids and addresses are 0x text, amounts token units.

    Attributes:
        chain_id: Id of its chain; None, like the addresses, if it never reached one.
        pot: Most that a round pays.
        budget: Meant for escrow.
        frozen: Last frozen round.
        recorded: Last round that the journal saw on the chain.
        escrow: None if the chain is down; `problem` says why.
        participants: All participants, by client.
        problem: Why the chain's data is missing, in one line.
    """

    campaign: str
    run: str
    chain_id: int | None
    token: str | None
    ledger: str | None
    registry: str | None
    pot: int
    budget: int
    frozen: int
    recorded: int
    escrow: Escrow | None
    participants: tuple[Participant, ...]
    problem: str | None

    @property
    def waiting(self) -> int:
        """Number of frozen rounds not yet recorded."""
        return self.frozen - self.recorded


def status(folder: Path, options: ChainOptions) -> Status:
    """Return the status of a run's campaign, also while the run is in progress.

    Raises:
        UsageError: If there is no journal.
        RunError: If the journal is damaged.
    """
    with closing(JournalView(folder / JOURNAL)) as journal:
        campaign, frozen, recorded = journal.founded, journal.frozen, journal.recorded
        at_record, known, at_end = journal.rewards(recorded), proofs(journal), journal.rewards(frozen)
        clients = sorted(journal.clients().items(), key=lambda pair: pair[1])
        escrow, seen, problem = None, dict[str, dict[str, Any]](), None
        try:
            with open_chain(options, folder) as chain:
                accounts = [account for account, _ in clients]
                escrow, seen = _on_chain(attach(journal, chain), accounts, campaign.block)
        except FedmetaError as error:
            problem = str(error)
    return Status(
        campaign=f"0x{campaign.campaign.hex()}",
        run=f"0x{campaign.run.hex()}",
        chain_id=campaign.chain_id,
        token=campaign.token,
        ledger=campaign.ledger,
        registry=campaign.registry,
        pot=campaign.round_cap,
        budget=campaign.budget,
        frozen=frozen,
        recorded=recorded,
        escrow=escrow,
        participants=tuple(
            Participant(
                client,
                account,
                frozen=at_end.get(account, 0),
                awarded=at_record.get(account, 0),
                proof=known.get(account),
                **seen.get(account, {}),
            )
            for account, client in clients
        ),
        problem=problem,
    )


def _on_chain(
    deployed: Deployed, accounts: Sequence[str], since: int
) -> tuple[Escrow, dict[str, dict[str, Any]]]:
    """Return the ledger's accounts, and the fields of each `Participant` that the chain knows."""
    names = ("funded", "awarded", "paid", "nextRound", "epoch", "deadline")
    claimed = deployed.ledger.each("claimed", accounts)
    balances = deployed.token.each("balanceOf", accounts)
    stakes, slashes = dict.fromkeys(accounts, 0), defaultdict[str, list[Slashed]](list)
    if deployed.registry is not None:
        stakes = {
            account: one[0] for account, one in deployed.registry.each("members", accounts).items()
        }
        for event in deployed.registry.events("Slashed", since):
            values = event["args"]
            part = Slashed(values["amount"], f"0x{values['evidenceHash'].hex()}")
            slashes[values["account"]].append(part)
    seen = {
        one: {
            "claimed": claimed[one],
            "balance": balances[one],
            "stake": stakes[one],
            "slashes": tuple(slashes[one]),
        }
        for one in accounts
    }
    return Escrow(*deployed.ledger.many(*names)), seen


@dataclass(frozen=True)
class Spent:
    """Gas used by one transaction: its action in the journal, its block's number, the gas."""

    action: str
    block: int
    gas: int


def gas_spent(folder: Path, options: ChainOptions) -> list[Spent]:
    """Return the gas used by each mined transaction of a run, in order of signing.

    Raises:
        UsageError: If there is no journal.
        RunError: If the journal is damaged, or the node is down.
    """
    with closing(JournalView(folder / JOURNAL)) as journal:
        landed = journal.landed()
    with open_chain(options, folder) as chain:
        receipts = chain.receipts([one.hash for one in landed])
    found = zip(landed, receipts, strict=True)
    return [Spent(one.action, receipt.number, receipt.gas) for one, receipt in found if receipt]
