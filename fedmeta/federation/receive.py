"""Decides which replies of a round count, and validates evaluation replies."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from flwr.app import ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from fedmeta.federation.client import CONFIG, DIVERGED, METRICS, ROUND, TASKS
from fedmeta.federation.evaluation import EvaluationSums
from fedmeta.federation.gate import client_failed, show
from fedmeta.federation.refusal import RefusalCode, RefusedError
from fedmeta.federation.sampling import Addresses
from fedmeta.tasks import stream

POLL_SECONDS = 0.2
"""Time between two looks for replies, where the grid must be asked for them."""

Sound = Callable[[int, Sequence[Message]], bool]
"""Whether what a client sent would be admitted."""


@runtime_checkable
class Clock(Protocol):
    """A grid on which time is simulated."""

    def arrival(self, round_: int, client: int) -> float | None:
        """Return when the reply of a client arrives, in seconds after the request; None: never."""
        ...


class Receiver:
    """Asks the clients of one round, and takes what comes before the deadline or until it is enough.

    Where nobody is asked beyond the cohort, replies are a stream as the grid yields them, and hardly any
    are in memory at once. Where more are asked, those of a round are held.

    Args:
        grid: Where the clients are.
        book: Which node is which client.
        round_: The round.
        timeout: Seconds to wait.
        seed: Of the run; on a grid with simulated time it decides who is first among equals.
    """

    def __init__(self, grid: Grid, book: Addresses, round_: int, timeout: float, seed: int) -> None:
        self.grid = grid
        self.book = book
        self.round = round_
        self.timeout = timeout
        self.seed = seed
        self.surplus: frozenset[int] = frozenset()
        """Clients that were not needed; known once the replies have been read."""

    def arrival(self, client: int) -> float | None:
        """Return when a client's reply arrived, in seconds, late or not; None: it cannot be told."""
        return self.grid.arrival(self.round, client) if isinstance(self.grid, Clock) else None

    def all(self, asked: Iterable[Message]) -> Iterable[Message]:
        """Send the requests and return what arrives in time."""
        return self.grid.send_and_receive(asked, timeout=self.timeout)

    def first_valid(self, asked: Iterable[Message], enough: int, sound: Sound) -> list[Message]:
        """Send the requests and return the first `enough` sound replies, and all that are not sound.

        A reply that will be refused takes nobody's place: a fast client that sends rubbish cannot crowd
        out the others.

        Args:
            asked: The requests.
            enough: How many sound replies are waited for.
            sound: Whether a reply would be admitted.
        """
        requests = list(asked)
        simulated = isinstance(self.grid, Clock)
        sent = self._simulated(requests) if simulated else self._poll(requests, enough, sound)
        kept: list[Message] = []
        found = 0
        surplus = set()
        for client in self._in_order(sent):
            if sound(client, sent[client]):
                found += 1
                if found > enough:
                    surplus.add(client)
                    continue
            kept += sent[client]
        if found >= enough and not simulated:
            # Nobody waited for those who had not answered by then.
            everybody = {self.book.client_of(request.metadata.dst_node_id) for request in requests}
            surplus |= {client for client in everybody if client is not None and client not in sent}
        self.surplus = frozenset(surplus)
        return kept

    def _simulated(self, requests: list[Message]) -> dict[int, list[Message]]:
        return self._grouped(self.grid.send_and_receive(requests, timeout=self.timeout))

    def _in_order(self, sent: Mapping[int, Sequence[Message]]) -> list[int]:
        """Return the clients in the order in which their replies arrived."""
        if not isinstance(self.grid, Clock):
            return list(sent)
        clients = sorted(sent)
        # Without delays all arrive at once; if then the lowest ids won, the others would never train.
        tie = dict(
            zip(clients, stream(self.seed, "arrival", self.round).permutation(len(clients)), strict=True)
        )
        return sorted(clients, key=lambda client: (self.arrival(client) or 0.0, tie[client]))

    def _poll(self, requests: list[Message], enough: int, sound: Sound) -> dict[int, list[Message]]:
        deadline = time.monotonic() + self.timeout
        waiting = set(self.grid.push_messages(requests))
        sent: dict[int, list[Message]] = {}
        while waiting:
            new = list(self.grid.pull_messages(waiting))
            waiting -= {reply.metadata.reply_to_message_id for reply in new}
            for client, replies in self._grouped(new).items():
                sent.setdefault(client, []).extend(replies)
            if sum(sound(client, replies) for client, replies in sent.items()) >= enough:
                break
            left = deadline - time.monotonic()
            if not waiting or left <= 0:
                break
            time.sleep(min(POLL_SECONDS, left))
        return sent

    def _grouped(self, replies: Iterable[Message]) -> dict[int, list[Message]]:
        """Return replies by client, in the order of partition ids; those of strangers are left out."""
        grouped: dict[int, list[Message]] = {}
        for client, reply in sorted(self._known(replies), key=lambda pair: pair[0]):
            grouped.setdefault(client, []).append(reply)
        return grouped

    def _known(self, replies: Iterable[Message]) -> Iterator[tuple[int, Message]]:
        for reply in replies:
            client = self.book.client_of(reply.metadata.src_node_id)
            if client is not None:
                yield client, reply


log = logging.getLogger(__name__)

_ROUNDING = 1e-5
"""What rounding in single precision may add to a sum, as a share of it."""
_TINY = 1e-100
"""A sum so small that its square is 0."""


class EvaluationGate:
    """Reads evaluation replies and leaves out, with a warning, those that make no sense.

    All numbers must be finite: a client says by a count, and not by its sums, that tasks diverged.

    Args:
        names: Quantities that every reply must carry.
        steps: How many adaptation steps are reported.
        tasks: How many tasks a client is asked to evaluate in a round; its reply must be of as many.
    """

    def __init__(self, names: Sequence[str], steps: int, tasks: Callable[[int, int], int]) -> None:
        self.names = tuple(names)
        self.steps = steps
        self.tasks = tasks
        self.problem: str | None = None
        """Why the first reply was left out; None: none was."""

    def admitted(
        self, round_: int, replies: Iterable[tuple[int, Sequence[Message]]]
    ) -> Iterable[tuple[int, EvaluationSums]]:
        """Yield each client whose reply is well formed, and its sums."""
        for client, sent in replies:
            try:
                yield client, self._read(client, round_, sent)
            except Exception as error:
                # Records are a client's to fill; one that breaks the reader is left out like the rest.
                self.problem = self.problem or f"client {client}: {error}"
                log.warning("round %d: evaluation of client %d is left out: %s", round_, client, error)

    def _read(self, client: int, round_: int, sent: Sequence[Message]) -> EvaluationSums:
        if len(sent) != 1:
            raise RefusedError(RefusalCode.SEVERAL_REPLIES, count=len(sent))
        reply = sent[0]
        if reply.has_error():
            raise client_failed(reply)
        metrics, config = reply.content.get(METRICS), reply.content.get(CONFIG)
        if not isinstance(metrics, MetricRecord) or not isinstance(config, ConfigRecord):
            raise RefusedError(RefusalCode.EVALUATION_RECORDS)
        if (claimed := config.get(ROUND)) != round_:
            raise RefusedError(RefusalCode.WRONG_ROUND, claimed=show(claimed), round=round_)
        tasks = metrics.get(TASKS)
        if type(tasks) is not int or tasks != self.tasks(client, round_):
            raise RefusedError(RefusalCode.EVALUATION_TASKS, value=show(tasks))
        diverged = self._counts(metrics, tasks)
        sums = {name: self._numbers(metrics, f"{name}-sum") for name in self.names}
        squares = {name: self._numbers(metrics, f"{name}-squares") for name in self.names}
        for name in self.names:
            for left_out, total, square in zip(diverged, sums[name], squares[name], strict=True):
                _require_possible(name, tasks - left_out, total, square)
        return EvaluationSums(tasks, sums, squares, diverged)

    def _counts(self, metrics: MetricRecord, tasks: int) -> list[int]:
        values = metrics.get(DIVERGED)
        if not isinstance(values, list) or len(values) != self.steps:
            raise RefusedError(RefusalCode.EVALUATION_LIST, key=DIVERGED, count=self.steps)
        counts = [value for value in values if type(value) is int and 0 <= value <= tasks]
        if len(counts) != len(values):
            raise RefusedError(RefusalCode.EVALUATION_COUNTS, key=DIVERGED, most=tasks)
        return counts

    def _numbers(self, metrics: MetricRecord, key: str) -> list[float]:
        values = metrics.get(key)
        if not isinstance(values, list) or len(values) != self.steps:
            raise RefusedError(RefusalCode.EVALUATION_LIST, key=key, count=self.steps)
        numbers = [float(value) for value in values]
        if not all(math.isfinite(number) for number in numbers):
            raise RefusedError(RefusalCode.EVALUATION_NOT_FINITE, key=key)
        return numbers


def _require_possible(name: str, tasks: int, total: float, square: float) -> None:
    """Refuse sums that no values of so many tasks have, such as a loss of tasks that all diverged.

    Raises:
        RefusedError: If there are none.
    """
    most = tasks * (1 + _ROUNDING)
    # By Cauchy and Schwarz, the square of a sum of n numbers is at most n times that of their squares.
    if square < 0 or abs(total) > math.sqrt(square) * math.sqrt(most) + _TINY:
        raise RefusedError(RefusalCode.EVALUATION_SQUARES, name=name, tasks=tasks)
    if name.endswith("accuracy") and not (0 <= total <= most and square <= most):
        raise RefusedError(RefusalCode.EVALUATION_SUM, name=name, tasks=tasks)
