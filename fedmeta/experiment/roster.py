"""`Roster`: the nodes that may hold each partition of a federation and are paid for it."""

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
from fedmeta.federation.engines.deployment.superlink import CONNECTION, flwr, write_connection
from fedmeta.federation.engines.deployment.tls import NodeKey
from fedmeta.files import write_atomically
from fedmeta.options import Options, parse_options

ADMIT = "`fedmeta federation admit`"

LOCAL = "local"
"""Name of a federation on one machine."""

Register = Callable[[str], int]
"""Registers a public key with a SuperLink; returns the node id there."""


class Seat(Options):
    """The node that holds a partition.

    Attributes:
        registration: Its registration.
        node: Its id on a SuperLink that authenticates nodes; None: the SuperLink does not.
    """

    registration: Registration
    node: int | None = None


class _File(Options):
    version: Literal[1] = 1
    federation: str = Field(pattern=NAME)
    nodes: list[Seat]


class Roster:
    """The nodes of a federation, with unique partitions, keys and accounts.

    Args:
        path: Path of its file.
        federation: Name of the federation.
        seats: The nodes.
    """

    def __init__(self, path: Path, federation: str, seats: Sequence[Seat] = ()) -> None:
        self.path = path
        self.federation = federation
        self._seats = {seat.registration.partition: seat for seat in seats}

    @classmethod
    def read(cls, path: Path) -> "Roster":
        """Read a roster, and check every signature in it.

        Raises:
            UsageError: If there is none, it is damaged, or a signature in it is invalid.
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
        """Write the roster, which has no secrets.

        Raises:
            UsageError: If the file cannot be written.
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
        """Return the node that holds a partition; None if there is none."""
        return self._seats.get(partition)

    def add(self, new: Registration, node: int | None = None) -> None:
        """Add a node; its holder may be added again.

        Raises:
            UsageError: If it is for another federation, or the partition, key or account is taken.
        """
        if new.federation != self.federation:
            raise UsageError(
                f"partition {new.partition}: the registration is for the federation '{new.federation}', "
                f"but {self.path} is for '{self.federation}'"
            )
        for one in (seat.registration for seat in self):
            held = f"{self.path}: partition {one.partition} is held by {one.account}"
            if one.partition == new.partition and (one.account, one.key) != (new.account, new.key):
                raise UsageError(f"{held}, and {new.account} requests it too: remove one of them")
            if one.partition != new.partition and one.key == new.key:
                raise UsageError(f"{held}, whose key also requests partition {new.partition}")
            if one.partition != new.partition and one.account == new.account:
                raise UsageError(f"{held}, which also requests partition {new.partition}")
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
                f"{self.path}: no node is admitted to partition {some} of {clients}; use {ADMIT}"
            )


def admit(
    path: Path, files: Sequence[Path], federation: str | None, register: Register | None = None
) -> list[Seat]:
    """Admit nodes to a federation; if one registration is invalid, admit none.

    Args:
        path: The roster's file, which is created if missing.
        files: The owners' registrations.
        federation: Name of the federation, for a new roster.
        register: Registers a key with the SuperLink; None: it does not authenticate nodes.

    Returns:
        The seats of these nodes.

    Raises:
        UsageError: If a registration is invalid, or the SuperLink refuses its key.
    """
    require_extra()
    roster = _open(path, federation)
    asked = [read_registration(file) for file in files]
    known = {seat.registration.partition: seat.node for seat in roster}
    for one in asked:
        roster.add(one, known.get(one.partition) if register else None)
    roster.write()
    for one in asked if register else ():
        # The SuperLink accepts a key only once, so its answer is saved at once.
        roster.add(one, _registered(roster, one, register))
        roster.write()
    return [seat for one in asked if (seat := roster.seat(one.partition))]


def _open(path: Path, federation: str | None) -> Roster:
    if path.exists():
        roster = Roster.read(path)
        if federation not in (None, roster.federation):
            raise UsageError(f"{path} is for the federation '{roster.federation}', not '{federation}'")
        return roster
    if federation is None or not re.fullmatch(NAME, federation):
        raise UsageError(f"there is no roster at {path}: name its federation with --federation")
    return Roster(path, federation)


def _registered(roster: Roster, asked: Registration, register: Register | None) -> int | None:
    """Register a key with the SuperLink, unless an earlier attempt has done so."""
    try:
        return register(asked.key) if register else None
    except UsageError:
        seat = roster.seat(asked.partition)
        if seat is None or seat.node is None:
            raise
        return seat.node


@contextmanager
def registering(options: DeploymentOptions) -> Iterator[Register]:
    """Yield a function that registers keys with a SuperLink, like `flwr supernode register`.

    Raises:
        UsageError: If it cannot be reached, or refuses the key.
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

    Their keys are kept for later federations, so accounts keep their earnings.

    Attributes:
        folder: Where keys and roster go.
    """

    folder: Path

    @property
    def roster(self) -> Path:
        """The file that says which node holds which partition."""
        return self.folder / "roster.json"

    def join(self, partition: int) -> tuple[NodeKey, Path]:
        """Make the keys of a node; return its node key, and the file of its account."""
        files = self._files(partition)
        join(files, LOCAL, partition)
        return files.key, files.account

    def admit(self, partition: int, node: int | None) -> None:
        """Admit the node of a partition, under the SuperLink's id of it if there is one."""
        register = None if node is None else lambda _: node
        admit(self.roster, [self._files(partition).registration], LOCAL, register)

    def _files(self, partition: int) -> NodeFiles:
        return NodeFiles(self.folder / "keys", f"node-{partition}")
