"""Storage of clients' memory between rounds, in a database or in a Flower context.

A client's memory changes with its update, and takes effect if the update counts. Each version is
labelled with the round of its update, and a request names the round of the client's last update that
counted: the client starts from that version, and drops those of updates that did not count. So a
client's memory does not depend on how often or where a round is computed.
"""

import hashlib
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord, RecordDict

from fedmeta.errors import RunError
from fedmeta.files import open_own
from fedmeta.learning import Tensors

RECORD = "client-states"
"""Name of the record of a Flower context that holds a client's versions, by round."""

_TABLES = """
CREATE TABLE IF NOT EXISTS states (
    client INTEGER NOT NULL, round INTEGER NOT NULL, sha BLOB NOT NULL, state BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS states_by_client ON states (client, round);
CREATE TABLE IF NOT EXISTS counted (
    client INTEGER NOT NULL, round INTEGER NOT NULL, PRIMARY KEY (client, round)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS run (id TEXT NOT NULL);
"""
_COUNTED = "(SELECT max(round) FROM counted WHERE client = {client} AND round <= {round})"


class StateForm:
    """Packs a client's memory into bytes, one tensor after the other, and back.

    Args:
        template: A client's memory before its first round.
    """

    def __init__(self, template: Tensors) -> None:
        self._slots: list[tuple[str, int, int, np.dtype[Any], tuple[int, ...]]] = []
        at = 0
        for key, value in template.items():
            array = value.detach().numpy()
            self._slots.append((key, at, at + array.nbytes, array.dtype, array.shape))
            at += array.nbytes
        self.nbytes = at

    def pack(self, states: Tensors) -> list[bytes]:
        """Return each row of ``[C, ...]`` as bytes."""
        arrays = [np.ascontiguousarray(states[key].detach().numpy()) for key, *_ in self._slots]
        rows = [array.reshape(len(array), -1).view(np.uint8) for array in arrays]
        return [row.tobytes() for row in np.concatenate(rows, axis=1)] if rows else []

    def unpack(self, packed: Sequence[bytes]) -> Tensors:
        """Return the tensors that were packed, ``[C, ...]`` by key."""
        count = len(packed)
        rows = np.frombuffer(b"".join(packed), np.uint8).reshape(count, self.nbytes)
        return {
            key: torch.from_numpy(
                np.ascontiguousarray(rows[:, first:last]).view(dtype).reshape(count, *shape).copy()
            )
            for key, first, last, dtype, shape in self._slots
        }


def outdated(versions: Iterable[int], counted: int, oldest: int) -> list[int]:
    """Return the versions of a client that can no longer be requested.

    Args:
        versions: The rounds of their updates.
        counted: Round of the client's last update that counted; later versions did not.
        oldest: The earliest round from which the run can resume.
    """
    held = sorted(versions)
    base = max((round_ for round_ in held if round_ <= min(oldest, counted)), default=0)
    return [round_ for round_ in held if round_ > counted or round_ < base]


class ContextStates:
    """The versions of one client, in the state of its Flower context.

    Args:
        state: The context's state.
        form: The format of a version.
    """

    def __init__(self, state: RecordDict, form: StateForm) -> None:
        self._state = state
        self._form = form

    def begin(self, counted: int, oldest: int) -> bytes | None:
        """Return the version to start from, None if it is missing; drop outdated ones."""
        held = versions_in(self._state)
        for round_ in outdated(held, counted, oldest):
            del held[round_]
        put_versions(self._state, held)
        found = held.get(counted)
        return found if found is not None and len(found) == self._form.nbytes else None

    def propose(self, round_: int, state: bytes) -> None:
        """Store the version of a round's update."""
        put_versions(self._state, versions_in(self._state) | {round_: state})


def versions_in(state: RecordDict) -> dict[int, bytes]:
    """Return the versions in the state of a Flower context, by round."""
    record = state.get(RECORD)
    if not isinstance(record, ConfigRecord):
        return {}
    return {int(key): value for key, value in record.items() if isinstance(value, bytes)}


def put_versions(state: RecordDict, versions: Mapping[int, bytes]) -> None:
    """Replace the versions in the state of a Flower context."""
    if versions:
        state[RECORD] = ConfigRecord({str(round_): value for round_, value in versions.items()})
    elif RECORD in state:
        del state[RECORD]


class ClientStates:
    """The versions of all clients, and which of their updates counted, in an SQLite file.

    It has entries only for clients that received requests. A node with one client has such a file too,
    without the server's part. Writes since the last `commit` are lost if the process dies; versions that
    a resumed run does not know are dropped when it requests others.

    Args:
        path: The file; None: in memory.

    Attributes:
        run: Name under which nodes store their memory of this run.

    Raises:
        RunError: If the file cannot be used.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._lock = threading.RLock()
        if path is not None:
            # Created here: SQLite would follow a symlink in its place.
            os.close(open_own(path, os.O_RDWR | os.O_CREAT))
        with self._guarded():
            self._db = sqlite3.connect(path or ":memory:", check_same_thread=False)
            self._db.executescript(_TABLES)
            if not self._rows("SELECT id FROM run"):
                self._db.execute("INSERT INTO run VALUES (?)", (secrets.token_hex(16),))
                self._db.commit()
            self.run: str = self._rows("SELECT id FROM run")[0][0]
        self._digest: int | None = None

    def begin(self, clients: Sequence[int], counted: Sequence[int], oldest: int) -> list[bytes | None]:
        """Return the version that each client starts from, None if it is missing; drop outdated ones.

        Args:
            clients: Partition ids.
            counted: Round of each one's last update that counted; 0: none did.
            oldest: The earliest round from which the run can resume.
        """
        with self._guarded():
            found: list[bytes | None] = []
            for client, last in zip(clients, counted, strict=True):
                held = [r for (r,) in self._rows("SELECT round FROM states WHERE client = ?", client)]
                self._drop(client, outdated(held, last, oldest))
                query = "SELECT state FROM states WHERE client = ? AND round = ?"
                rows = self._rows(query, client, last) if last in held else []
                found.append(rows[0][0] if rows else None)
            return found

    def propose(self, round_: int, clients: Sequence[int], states: Sequence[bytes]) -> None:
        """Store the versions of a round's updates."""
        with self._guarded():
            rows = ((c, round_, _sha(state), state) for c, state in zip(clients, states, strict=True))
            self._db.executemany("INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)", rows)

    def versions(self, client: int) -> dict[int, bytes]:
        """Return all versions of a client, by round."""
        with self._guarded():
            return dict(self._rows("SELECT round, state FROM states WHERE client = ?", client))

    def merge(self, client: int, before: Mapping[int, bytes], after: Mapping[int, bytes]) -> None:
        """Apply the changes that were made to a copy of a client's versions.

        Args:
            client: Its partition id.
            before: The copy, as returned by `versions`.
            after: The changed copy.
        """
        with self._guarded():
            self._drop(client, before.keys() - after.keys())
            for round_, state in after.items():
                if before.get(round_) != state:
                    self.propose(round_, [client], [state])

    @contextmanager
    def in_context(self, client: int, state: RecordDict) -> Iterator[None]:
        """Put a client's versions into the state of its Flower context during the block."""
        before = self.versions(client)
        put_versions(state, before)
        yield
        self.merge(client, before, versions_in(state))
        put_versions(state, {})

    def counted(self, clients: Iterable[int], before: int) -> list[int]:
        """Return the round of each client's last update that counted before a round; 0: none did."""
        query = "SELECT max(round) FROM counted WHERE client = ? AND round < ?"
        with self._guarded():
            return [self._rows(query, client, before)[0][0] or 0 for client in clients]

    def count(self, round_: int, clients: Sequence[int], oldest: int) -> None:
        """Record which clients' updates of a round counted.

        Args:
            round_: The round.
            clients: Partition ids.
            oldest: The earliest round from which the run can resume.
        """
        with self._guarded():
            digest = self.digest(round_ - 1) if self._digest is None else self._digest
            for client, last in zip(clients, self.counted(clients, round_), strict=True):
                if last:
                    digest ^= self._mark(client, last)
                digest ^= self._mark(client, round_)
                self._db.execute("INSERT OR REPLACE INTO counted VALUES (?, ?)", (client, round_))
                base = _COUNTED.format(client="?1", round="?2")
                self._db.execute(
                    f"DELETE FROM counted WHERE client = ?1 AND round < {base}", (client, oldest)
                )
            self._digest = digest

    def digest(self, round_: int) -> int:
        """Return a hash of all clients' memory after a round: the XOR of per-client hashes.

        `count` updates it at the cost of the clients that changed; only a resume reads all of them.
        """
        with self._guarded():
            query = "SELECT client, max(round) FROM counted WHERE round <= ? GROUP BY client"
            digest = 0
            for client, last in self._rows(query, round_):
                digest ^= self._mark(client, last, verify=True)
            return digest

    @property
    def seal(self) -> str:
        """The digest of all clients' current memory, for a checkpoint; empty if there is none yet."""
        return f"{self._digest:064x}" if self._digest else ""

    def agrees(self, seal: str | None, round_: int) -> bool:
        """Return whether clients' memory after a round matches a checkpoint's seal."""
        return (f"{digest:064x}" if (digest := self.digest(round_)) else "") == (seal or "")

    def rewind(self, round_: int) -> None:
        """Forget what came after a round."""
        with self._guarded():
            for table in ("states", "counted"):
                self._db.execute(f"DELETE FROM {table} WHERE round > ?", (round_,))
            self._digest = self.digest(round_)

    def commit(self) -> None:
        """Commit all writes to disk."""
        with self._guarded():
            self._db.commit()

    def close(self) -> None:
        """Close the file and drop uncommitted writes."""
        self._db.close()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Admit one thread at a time, and turn SQLite errors into a one-line `RunError`."""
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            where = self.path or "clients' memory"
            raise RunError(f"{where}: {error}; rounds up to the last checkpoint are safe") from None

    def _mark(self, client: int, round_: int, verify: bool = False) -> int:
        query = "SELECT sha, state FROM states WHERE client = ? AND round = ?"
        rows = self._rows(query if verify else query.replace(", state", ""), client, round_)
        sha = (_sha(rows[0][1]) if verify else rows[0][0]) if rows else b""
        return int.from_bytes(_sha(f"{client} {round_} ".encode() + sha))

    def _drop(self, client: int, rounds: Iterable[int]) -> None:
        rows = ((client, round_) for round_ in rounds)
        self._db.executemany("DELETE FROM states WHERE client = ? AND round = ?", rows)

    def _rows(self, query: str, *values: int) -> list[tuple[Any, ...]]:
        return self._db.execute(query, values).fetchall()


def _sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
