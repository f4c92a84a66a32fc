"""Whose accounts the clients of a run sign with: keys of this process, or nodes' own, by a roster."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from fedmeta.chain import ClientKeys, open_client_keys, recover, update_digest
from fedmeta.chain.typed_data import presence_digest
from fedmeta.config import Config
from fedmeta.errors import UsageError
from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.roster import Roster


class _Checking(ABC):
    """Checks signatures under updates by the accounts that a subclass knows.

    Args:
        run: The run's id, 32 bytes.
    """

    def __init__(self, run: bytes) -> None:
        self.run = run

    @abstractmethod
    def account(self, client: int) -> str:
        """Return the address that is paid for what a client contributes."""

    def check(self, client: int, round_: int, tasks: int, update: bytes, signature: bytes) -> bool:
        """Tell whether the account of the client signed just this.

        Each account is of one client, so that a signature is never good for another.
        """
        try:
            signer = recover(update_digest(self.run, round_, tasks, update), signature)
        except (ValueError, OverflowError):
            return False
        return signer == self.account(client)


class ClientSignatures(_Checking):
    """Signs for a simulation's clients and checks it; see `fedmeta.federation.Signatures`.

    Args:
        keys: Of the clients.
        run: The run's id.
    """

    def __init__(self, keys: ClientKeys, run: bytes) -> None:
        super().__init__(run)
        self.keys = keys

    def account(self, client: int) -> str:
        """Return the client's address."""
        return self.keys.address(client)

    def sign(self, client: int, round_: int, tasks: int, update: bytes) -> bytes:
        """Return the client's signature under an update."""
        return self.keys.sign(client, update_digest(self.run, round_, tasks, update))


class RosterSignatures(_Checking):
    """Checks signatures by the accounts of a roster; see `fedmeta.federation.signing.Checking`.

    Args:
        roster: Of the federation.
        run: The run's id, 32 bytes.
    """

    def __init__(self, roster: Roster, run: bytes) -> None:
        super().__init__(run)
        self.roster = roster

    def account(self, client: int) -> str:
        """Return the account that is admitted to a partition."""
        seat = self.roster.seat(client)
        if seat is None:
            raise KeyError(client)
        return seat.registration.account


class RosterSeats:
    """Lets each node hold the partition that it was admitted to; see `fedmeta.federation.signing.Seats`.

    Args:
        roster: Of the federation.
        run: The run's id, 32 bytes.
        tell: Called with a line about each node that was refused.
    """

    def __init__(self, roster: Roster, run: bytes, tell: Callable[[str], None]) -> None:
        self.roster = roster
        self.run = run
        self._tell = tell
        self._by_node = {seat.node: seat.registration for seat in roster if seat.node is not None}

    def admitted(self, node: int) -> bool:
        """Tell whether the SuperLink knows this node by a key in the roster."""
        return node in self._by_node

    def why_not(self, node: int, client: int, nonce: bytes, proof: object) -> str | None:
        """Return why a node may not hold a partition: its key, or its account, is another's."""
        claims = f"it claims partition {client}"
        own = self._by_node.get(node)
        if own and own.partition != client:
            return f"{claims}, and its key is admitted to partition {own.partition}"
        seat = self.roster.seat(client)
        if seat is None:
            return f"{claims}, to which {self.roster.path} admits nobody"
        if seat.node not in (None, node):
            return f"{claims}, to which another key is admitted, that of node {seat.node}"
        if not isinstance(proof, bytes):
            return f"{claims} without a proof: its config names no account"
        account = seat.registration.account
        try:
            signer = recover(presence_digest(self.run, node, client, nonce), proof)
        except (ValueError, OverflowError):
            return f"{claims} with a proof that is not a signature"
        return None if signer == account else f"{claims} of {account} with a proof by {signer}"

    def refused(self, node: int, why: str) -> None:
        """Tell of a node that was refused."""
        self._tell(f"node {node}: {why}")


def open_signatures(config: Config, run: bytes) -> ClientSignatures | RosterSignatures:
    """Return how a run's clients sign: by keys of this process, or of their own on their nodes.

    Raises:
        UsageError: If a key is missing, or the roster is not good or leaves a partition to nobody.
    """
    if config.engine != "deployment":
        return ClientSignatures(open_client_keys(config.chain, None, run), run)
    roster = Roster.read(Path(config.deployment.roster or ""))
    roster.require(config.clients)
    return RosterSignatures(roster, run)


def require_same_accounts(folder: RunFolder, signatures: RosterSignatures) -> None:
    """Refuse a roster that would pay another account for a client than the rounds so far.

    Raises:
        UsageError: If it does.
    """
    for row in folder.clients():
        now = signatures.account(row["client"])
        if row.get("account") not in (None, now):
            raise UsageError(
                f"{signatures.roster.path}: client {row['client']} had the account {row['account']} in "
                f"round {row['round']}, and has {now} now: a run pays one account for each client"
            )
