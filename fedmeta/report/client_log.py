"""The rows of ``clients.jsonl`` as columns, a few dozen bytes a row."""

from array import array
from collections.abc import Iterable
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fedmeta.experiment.rows import ClientRow, kind
from fedmeta.files import one_line

_MOST_KINDS = 1000
_OTHER_REASONS = "other reasons"
_LARGEST = 2**40
_TOO_LARGE = 1e300
_LONGEST = 300
_ADMITTED, _PAID = 1, 2
_UNKNOWN = -1
_MISSING = object()

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class ClientLog:
    """Rows of ``clients.jsonl``, added one by one; none may be added once a column was used.

    Args:
        rows: Those to begin with.

    Attributes:
        kinds: The kinds of refusals, in the order of first appearance, as `rows.kind` returns them.
        accounts: Address of each client that was paid with one.
        said: Reason of each refusal, in the order of the log; the other columns of refusals go with it.
    """

    def __init__(self, rows: Iterable[ClientRow] = ()) -> None:
        self.kinds: list[str] = []
        self.accounts: dict[int, str] = {}
        self.said: list[str] = []
        self._places: dict[str, int] = {}
        self._refused, self._refused_kind = array("q"), array("q")
        self._round, self._client, self._tasks = array("q"), array("q"), array("q")
        self._state = array("b")
        self._score, self._reward = array("d"), array("d")
        for row in rows:
            self.add(row)

    def __len__(self) -> int:
        return len(self._round)

    def add(self, row: ClientRow) -> None:
        """Add a row; only its client must be valid."""
        round_, tasks, standing = _count(row.get("round")), _count(row.get("tasks")), row.get("admitted")
        state = _ADMITTED if standing is True else 0
        if standing is False and round_ >= 0:
            self._add_refusal(row)
        score, reward = row.get("score", _MISSING), row.get("reward", _MISSING)
        if (score is not _MISSING or reward is not _MISSING) and isinstance(standing, bool):
            if round_ >= 0 and tasks >= 0:
                state |= _PAID
            if (account := row.get("account")) and row["client"] not in self.accounts:
                self.accounts[row["client"]] = one_line(account, 100)
        self._round.append(round_)
        self._client.append(row["client"])
        self._tasks.append(tasks)
        self._state.append(state)
        self._score.append(_float(score))
        self._reward.append(_float(reward))

    def _add_refusal(self, row: ClientRow) -> None:
        why = kind(row)
        if why not in self._places:
            # A client chooses the name of its exception, so the number of kinds needs a bound.
            why = why if len(self.kinds) < _MOST_KINDS else _OTHER_REASONS
        if why not in self._places:
            self._places[why] = len(self.kinds)
            self.kinds.append(why)
        self._refused.append(len(self))
        self._refused_kind.append(self._places[why])
        reason = row.get("reason")
        self.said.append(str(reason)[:_LONGEST] if reason else "no reason given")

    @cached_property
    def round(self) -> Integers:
        """Round of each row; -1 where it is not a count."""
        return np.array(self._round, dtype=np.int64)

    @cached_property
    def client(self) -> Integers:
        """Client of each row."""
        return np.array(self._client, dtype=np.int64)

    @cached_property
    def tasks(self) -> Integers:
        """Tasks of each row; -1 where it is not a count."""
        return np.array(self._tasks, dtype=np.int64)

    @cached_property
    def admitted(self) -> Flags:
        """Whether each row's update was admitted."""
        return self._has(_ADMITTED)

    @cached_property
    def paid(self) -> Flags:
        """Whether each row has a score or a reward, and is whole."""
        return self._has(_PAID)

    def _has(self, flag: int) -> Flags:
        found: Flags = np.not_equal(np.array(self._state, dtype=np.int8) & flag, 0)
        return found

    @cached_property
    def score(self) -> Floats:
        """Score of each row; NaN: none."""
        return np.array(self._score, dtype=np.float64)

    @cached_property
    def reward(self) -> Floats:
        """Token units of each row; NaN: none."""
        return np.array(self._reward, dtype=np.float64)

    @cached_property
    def refused(self) -> Integers:
        """The row of each refusal."""
        return np.array(self._refused, dtype=np.int64)

    @cached_property
    def refused_kind(self) -> Integers:
        """The kind of each refusal: its place in `kinds`."""
        return np.array(self._refused_kind, dtype=np.int64)


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value < _LARGEST else _UNKNOWN


def _float(value: object) -> float:
    # With a million rows each step counts: an exact type check leaves out bool and subclasses.
    if (type(value) is float or type(value) is int) and -_TOO_LARGE < value < _TOO_LARGE:
        return value
    return np.nan
