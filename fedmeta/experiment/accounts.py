"""Clients' accounts and signatures: with keys of this process, or with nodes' own keys and a roster."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from fedmeta.chain import ClientKeys, open_client_keys, recover, update_digest
from fedmeta.chain.signing import presence_digest
from fedmeta.config import Config
from fedmeta.errors import UsageError
from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.roster import Roster


class _Checking(ABC):
    """Checks signatures of updates against accounts, which a subclass gives.

    Args:
        run: The run's id, 32 bytes.
    """

    def __init__(self, run: bytes) -> None:
        self.run = run

    @abstractmethod
    def account(self, client: int) -> str:
        """Return the address that is paid for a client's contributions."""

    def check(self, client: int, round_: int, tasks: int, update: bytes, signature: bytes) -> bool:
        """Return whether the client's account signed exactly these values.

        Each account belongs to one client, so a signature is never valid for another.
        """
        try:
            signer = recover(update_digest(self.run, round_, tasks, update), signature)
        except (ValueError, OverflowError):
            return False
        return signer == self.account(client)


class ClientSignatures(_Checking):
    """Signs and checks for a simulation's clients; see `fedmeta.federation.Signatures`.

    Args:
        keys: The clients' keys.
        run: The run's id.
    """

    def __init__(self, keys: ClientKeys, run: bytes) -> None:
        super().__init__(run)
        self.keys = keys

    def account(self, client: int) -> str:
        """Return the client's address."""
        return self.keys.address(client)

    def sign(self, client: int, round_: int, tasks: int, update: bytes) -> bytes:
        """Return the client's signature of an update."""
        return self.keys.sign(client, update_digest(self.run, round_, tasks, update))


class RosterSignatures(_Checking):
    """Checks signatures against the accounts of a roster; see `fedmeta.federation.accounts.Checking`.

    Args:
        roster: The federation's roster.
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
    """Lets each node hold the partition that it was admitted to, as `fedmeta.federation.accounts.Seats`.

    Args:
        roster: The federation's roster.
        run: The run's id, 32 bytes.
        tell: Called with a line about each refused node.
    """

    def __init__(self, roster: Roster, run: bytes, tell: Callable[[str], None]) -> None:
        self.roster = roster
        self.run = run
        self._tell = tell
        self._by_node = {seat.node: seat.registration for seat in roster if seat.node is not None}

    def admitted(self, node: int) -> bool:
        """Return whether the SuperLink knows this node by a key in the roster."""
        return node in self._by_node

    def why_not(self, node: int, client: int, nonce: bytes, proof: object) -> str | None:
        """Return why a node may not hold a partition; None if its key and account are admitted to it."""
        claims = f"it claims partition {client}"
        own = self._by_node.get(node)
        if own and own.partition != client:
            return f"{claims}, but its key is admitted to partition {own.partition}"
        seat = self.roster.seat(client)
        if seat is None:
            return f"{claims}, to which {self.roster.path} admits no node"
        if seat.node not in (None, node):
            return f"{claims}, to which the key of node {seat.node} is admitted"
        if not isinstance(proof, bytes):
            return f"{claims} without a proof: its config names no account"
        account = seat.registration.account
        try:
            signer = recover(presence_digest(self.run, node, client, nonce), proof)
        except (ValueError, OverflowError):
            return f"{claims} with a proof that is not a signature"
        return None if signer == account else f"{claims} of {account} with a proof by {signer}"

    def refused(self, node: int, why: str) -> None:
        """Report a refused node."""
        self._tell(f"node {node}: {why}")


def open_signatures(config: Config, run: bytes) -> ClientSignatures | RosterSignatures:
    """Return how a run's clients sign: with keys of this process, or with their own on their nodes.

    Raises:
        UsageError: If a key is missing, or the roster is invalid or incomplete.
    """
    if config.engine != "deployment":
        return ClientSignatures(open_client_keys(config.chain, None, run), run)
    roster = Roster.read(Path(config.deployment.roster or ""))
    roster.require(config.clients)
    return RosterSignatures(roster, run)


def require_same_accounts(folder: RunFolder, signatures: RosterSignatures) -> None:
    """Check that a roster has the same accounts for clients as the rounds so far.

    Raises:
        UsageError: If not.
    """
    for row in folder.clients():
        now = signatures.account(row["client"])
        if row.get("account") not in (None, now):
            raise UsageError(
                f"{signatures.roster.path}: client {row['client']} had the account {row['account']} in "
                f"round {row['round']} but now has {now}: a run pays one account per client"
            )
