"""What clients remember between rounds: versions by round, in a database or in a Flower context.

A client's memory changes with its update, and counts once that does. So each version bears the round
whose update made it, and a request names the round of the client's last update that counted: the client
begins from that version, and drops those of updates that did not count. Nothing else decides what a
client remembers, however often a round is computed, and wherever.
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
    """What a client's memory looks like: its tensors one after the other as bytes, and back.

    Args:
        template: What a client remembers before its first round.
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
        """Return what `pack` was given, ``[C, ...]`` by key."""
        count = len(packed)
        rows = np.frombuffer(b"".join(packed), np.uint8).reshape(count, self.nbytes)
        return {
            key: torch.from_numpy(
                np.ascontiguousarray(rows[:, first:last]).view(dtype).reshape(count, *shape).copy()
            )
            for key, first, last, dtype, shape in self._slots
        }


def outdated(versions: Iterable[int], counted: int, oldest: int) -> list[int]:
    """Return which versions of a client nobody can ask for any more.

    Args:
        versions: The rounds whose updates made them.
        counted: Round of the client's last update that counted; later versions did not.
        oldest: The first round from which the run may be resumed.
    """
    held = sorted(versions)
    base = max((round_ for round_ in held if round_ <= min(oldest, counted)), default=0)
    return [round_ for round_ in held if round_ > counted or round_ < base]


class ContextStates:
    """The versions of one client, in the state of its Flower context.

    Args:
        state: Of the context.
        form: What a version looks like.
    """

    def __init__(self, state: RecordDict, form: StateForm) -> None:
        self._state = state
        self._form = form

    def begin(self, counted: int, oldest: int) -> bytes | None:
        """Return the version to start from; None: it is not here. Drop those that are outdated."""
        held = self._held()
        for round_ in outdated(held, counted, oldest):
            del held[round_]
        self._put(held)
        found = held.get(counted)
        return found if found is not None and len(found) == self._form.nbytes else None

    def propose(self, round_: int, state: bytes) -> None:
        """Keep the version that a round's update makes."""
        self._put(self._held() | {round_: state})

    def _held(self) -> dict[int, bytes]:
        return versions_in(self._state)

    def _put(self, held: Mapping[int, bytes]) -> None:
        put_versions(self._state, held)


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

    It holds an entry for each client that was asked, and no other. A node that holds one client has one
    too, without the server's part. Whatever was written since the last `commit` is gone if the process
    dies; versions that a resumed run does not know are dropped as it asks for others.

    Args:
        path: The file; None: in memory.

    Attributes:
        run: Under this name nodes keep what they remember of a run.

    Raises:
        RunError: If the file cannot be used.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._lock = threading.RLock()
        if path is not None:
            # Made here: SQLite would follow a link that somebody put in its place.
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
        """Return the version that each client starts from, None if it is not here; drop outdated ones.

        Args:
            clients: Partition ids.
            counted: Round of each one's last update that counted; 0: none did.
            oldest: The first round from which the run may be resumed.
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
        """Keep the versions that the updates of a round make."""
        with self._guarded():
            rows = ((c, round_, _sha(state), state) for c, state in zip(clients, states, strict=True))
            self._db.executemany("INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)", rows)

    def versions(self, client: int) -> dict[int, bytes]:
        """Return all versions of a client, by round."""
        with self._guarded():
            return dict(self._rows("SELECT round, state FROM states WHERE client = ?", client))

    def merge(self, client: int, before: Mapping[int, bytes], after: Mapping[int, bytes]) -> None:
        """Take over what was changed on a copy of a client's versions.

        Args:
            client: Its partition id.
            before: The copy, as `versions` returned it.
            after: The copy, as it is now.
        """
        with self._guarded():
            self._drop(client, before.keys() - after.keys())
            for round_, state in after.items():
                if before.get(round_) != state:
                    self.propose(round_, [client], [state])

    def counted(self, clients: Iterable[int], before: int) -> list[int]:
        """Return the round of each client's last update that counted before a round; 0: none did."""
        query = "SELECT max(round) FROM counted WHERE client = ? AND round < ?"
        with self._guarded():
            return [self._rows(query, client, before)[0][0] or 0 for client in clients]

    def count(self, round_: int, clients: Sequence[int], oldest: int) -> None:
        """Take note of whose updates of a round counted.

        Args:
            round_: The round.
            clients: Partition ids.
            oldest: The first round from which the run may be resumed.
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
        """Return a hash of what all clients remember after a round: XOR of one of each client.

        Adding a client, or changing one, costs no more than that client; so `count` keeps it up to date,
        and only whoever resumes a run reads all of them.
        """
        with self._guarded():
            query = "SELECT client, max(round) FROM counted WHERE round <= ? GROUP BY client"
            digest = 0
            for client, last in self._rows(query, round_):
                digest ^= self._mark(client, last, verify=True)
            return digest

    @property
    def seal(self) -> str:
        """The digest of what clients remember now, for a checkpoint; empty: nobody does yet."""
        return f"{self._digest:064x}" if self._digest else ""

    def agrees(self, seal: str | None, round_: int) -> bool:
        """Return whether what clients remember after a round is what a checkpoint says."""
        return (f"{digest:064x}" if (digest := self.digest(round_)) else "") == (seal or "")

    def rewind(self, round_: int) -> None:
        """Forget what came after a round."""
        with self._guarded():
            for table in ("states", "counted"):
                self._db.execute(f"DELETE FROM {table} WHERE round > ?", (round_,))
            self._digest = self.digest(round_)

    def commit(self) -> None:
        """Bring everything to the disk."""
        with self._guarded():
            self._db.commit()

    def close(self) -> None:
        """Close the file; what was not committed is dropped."""
        self._db.close()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Let one thread in at a time, and say in one line what is wrong with the file."""
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            where = self.path or "what clients remember"
            raise RunError(f"{where}: {error}; the rounds of the last checkpoint are kept") from None

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
