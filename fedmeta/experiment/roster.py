"""Who may hold which partition of a federation, and is paid for it: the server's side of its nodes."""

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from fedmeta.chain import require_extra
from fedmeta.errors import ConfigError, UsageError
from fedmeta.experiment.node_keys import (
    NAME,
    NodeFiles,
    Registration,
    join,
    read_object,
    read_registration,
)
from fedmeta.federation.engines.deployment import DeploymentOptions, require_superlink
from fedmeta.federation.engines.deployment.session import CONNECTION, flwr, write_connection
from fedmeta.federation.engines.deployment.tls import NodeKey
from fedmeta.files import write_atomically
from fedmeta.options import Options, parse_options

ADMIT = "`fedmeta federation admit`"

LOCAL = "local"
"""Name of a federation on one machine."""

Register = Callable[[str], int]
"""Lets a public key into a SuperLink; returns the node id that it has there."""


class Seat(Options):
    """A partition that is taken.

    Attributes:
        registration: By whom.
        node: The node's id on a SuperLink that knows nodes by their keys; None: it knows none.
    """

    registration: Registration
    node: int | None = None


class _File(Options):
    version: Literal[1] = 1
    federation: str = Field(pattern=NAME)
    nodes: list[Seat]


class Roster:
    """The nodes of a federation: a partition, a key and an account are in it once at most.

    Args:
        path: Of its file.
        federation: Name of the federation.
        seats: By partition.
    """

    def __init__(self, path: Path, federation: str, seats: Sequence[Seat] = ()) -> None:
        self.path = path
        self.federation = federation
        self._seats = {seat.registration.partition: seat for seat in seats}

    @classmethod
    def read(cls, path: Path) -> "Roster":
        """Read a roster, and check every signature in it.

        Raises:
            UsageError: If there is none, it is damaged, or a node in it is not what it says.
        """
        require_extra()
        try:
            file = parse_options(_File, read_object(path, f"the file that {ADMIT} writes"))
        except ConfigError as error:
            raise UsageError(f"{path} is not a roster: {error}") from None
        roster = cls(path, file.federation)
        for seat in file.nodes:
            seat.registration.check(f"{path}, partition {seat.registration.partition}")
            roster.add(seat.registration, seat.node)
        return roster

    def write(self) -> None:
        """Write the roster; there is nothing private in it.

        Raises:
            UsageError: If the place cannot be written.
        """
        seats = sorted(self._seats.values(), key=lambda seat: seat.registration.partition)
        content = _File(federation=self.federation, nodes=seats).model_dump_json(indent=1)
        try:
            write_atomically(self.path, f"{content}\n".encode())
        except OSError as error:
            raise UsageError(f"cannot write {self.path}: {error.strerror}") from None

    def __iter__(self) -> Iterator[Seat]:
        return iter(self._seats.values())

    def seat(self, partition: int) -> Seat | None:
        """Return who has a partition; None: nobody."""
        return self._seats.get(partition)

    def add(self, new: Registration, node: int | None = None) -> None:
        """Give a partition to who asks for it; who has it may ask again.

        Raises:
            UsageError: If it is of another federation, or the partition, the key or the account is
                taken.
        """
        if new.federation != self.federation:
            raise UsageError(
                f"partition {new.partition}: a registration for the federation '{new.federation}', "
                f"and {self.path} is of '{self.federation}'"
            )
        for one in (seat.registration for seat in self):
            held = f"{self.path}: partition {one.partition} is held by {one.account}"
            if one.partition == new.partition and (one.account, one.key) != (new.account, new.key):
                raise UsageError(f"{held}, and {new.account} asks for it: take one of them out")
            if one.partition != new.partition and one.key == new.key:
                raise UsageError(f"{held}, whose key asks for partition {new.partition} as well")
            if one.partition != new.partition and one.account == new.account:
                raise UsageError(f"{held}, who asks for partition {new.partition} as well")
        self._seats[new.partition] = Seat(registration=new, node=node)

    def require(self, clients: int) -> None:
        """Check that every partition below `clients` is held.

        Raises:
            UsageError: Naming those that are not.
        """
        free = [str(client) for client in range(clients) if client not in self._seats]
        if free:
            some = ", ".join(free[:8]) + (" and more" if len(free) > 8 else "")
            raise UsageError(
                f"{self.path}: nobody is admitted to partition {some} of {clients}; {ADMIT} does it"
            )


def admit(
    path: Path, files: Sequence[Path], federation: str | None, register: Register | None = None
) -> list[Seat]:
    """Let nodes into a federation; if one registration is not good, none of them.

    Args:
        path: The roster's file; it is made if it is not there.
        files: The registrations that their owners sent.
        federation: Name of the federation, for a new roster.
        register: Lets a key into the SuperLink; None: it knows no keys.

    Returns:
        The seats of these nodes.

    Raises:
        UsageError: If one of them is not good, or the SuperLink does not take its key.
    """
    require_extra()
    roster = _open(path, federation)
    asked = [read_registration(file) for file in files]
    known = {seat.registration.partition: seat.node for seat in roster}
    for one in asked:
        roster.add(one, known.get(one.partition) if register else None)
    roster.write()
    for one in asked if register else ():
        # The SuperLink takes a key once, so what it answered is kept at once.
        roster.add(one, _registered(roster, one, register))
        roster.write()
    return [seat for one in asked if (seat := roster.seat(one.partition))]


def _open(path: Path, federation: str | None) -> Roster:
    if path.exists():
        roster = Roster.read(path)
        if federation not in (None, roster.federation):
            raise UsageError(f"{path} is of the federation '{roster.federation}', not '{federation}'")
        return roster
    if federation is None or not re.fullmatch(NAME, federation):
        raise UsageError(f"there is no roster at {path}: name its federation by --federation")
    return Roster(path, federation)


def _registered(roster: Roster, asked: Registration, register: Register | None) -> int | None:
    """Let a key into the SuperLink, or find that it is in already, as an earlier try left it."""
    try:
        return register(asked.key) if register else None
    except UsageError:
        seat = roster.seat(asked.partition)
        if seat is None or seat.node is None:
            raise
        return seat.node


@contextmanager
def registering(options: DeploymentOptions) -> Iterator[Register]:
    """Lead to a SuperLink that knows nodes by their keys, as `flwr supernode register` does.

    Raises:
        UsageError: If it cannot be reached, or takes no key.
    """
    require_superlink(options)
    with tempfile.TemporaryDirectory(prefix="fm-") as name:
        folder = Path(name)
        write_connection(folder, options)

        def register(key: str) -> int:
            public = folder / "node.pub"
            public.write_text(key)
            return int(flwr(folder, "supernode", "register", str(public), CONNECTION)["node-id"])

        yield register


@dataclass(frozen=True)
class LocalNodes:
    """Joins and admits the nodes of a federation on one machine.

    Their keys are kept from one federation to the next: what an account earned stays its owner's.

    Attributes:
        folder: Where keys and roster go.
    """

    folder: Path

    @property
    def roster(self) -> Path:
        """The file that says who holds which partition."""
        return self.folder / "roster.json"

    def join(self, partition: int) -> tuple[NodeKey, Path]:
        """Make the keys of a node; return its own, and the file of its account."""
        files = self._files(partition)
        join(files, LOCAL, partition)
        return files.key, files.account

    def admit(self, partition: int, node: int | None) -> None:
        """Admit the node of a partition, under the id that the SuperLink gave it, if it did."""
        register = None if node is None else lambda _: node
        admit(self.roster, [self._files(partition).registration], LOCAL, register)

    def _files(self, partition: int) -> NodeFiles:
        return NodeFiles(self.folder / "keys", f"node-{partition}")
