"""`Federation`: evaluates clients over a grid and validates their evaluation replies."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid

from fedmeta.errors import LearnersFailedError
from fedmeta.federation.client import CONFIG, DIVERGED, METRICS, ROUND, TASKS
from fedmeta.federation.client_states import ClientStates
from fedmeta.federation.codec import Codec
from fedmeta.federation.cohort import Addresses, by_client, requests, wait_for_nodes
from fedmeta.federation.evaluation import EvaluationSums
from fedmeta.federation.gate import client_failed, show
from fedmeta.federation.learner import Learner
from fedmeta.federation.refusal import RefusalCode, RefusedError
from fedmeta.learning import Tensors
from fedmeta.tasks import Measure, Split

log = logging.getLogger(__name__)

_ROUNDING = 1e-5
"""Relative rounding error of a single-precision sum."""
_TINY = 1e-100
"""A sum so small that its square underflows to 0."""


class EvaluationGate:
    """Reads evaluation replies and skips invalid ones with a warning.

    All numbers must be finite: clients report diverged tasks as a count, not in their sums.

    Args:
        measures: Measures that every reply must include, with their possible values.
        steps: Number of adaptation steps reported.
        tasks: Returns, by client and round, how many tasks its reply must cover.
    """

    def __init__(
        self, measures: Mapping[str, Measure], steps: int, tasks: Callable[[int, int], int]
    ) -> None:
        self.measures = dict(measures)
        self.steps = steps
        self.tasks = tasks
        self.problem: str | None = None
        """Why the first reply was skipped; None if none was."""

    def admitted(
        self, round_: int, replies: Iterable[tuple[int, Sequence[Message]]]
    ) -> Iterable[tuple[int, EvaluationSums]]:
        """Yield each client whose reply is valid, and its sums."""
        for client, sent in replies:
            try:
                yield client, self._read(client, round_, sent)
            except Exception as error:
                # Records are untrusted; one that breaks the reader is skipped like other invalid ones.
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
        sums = {name: self._numbers(metrics, f"{name}-sum") for name in self.measures}
        squares = {name: self._numbers(metrics, f"{name}-squares") for name in self.measures}
        for name, measure in self.measures.items():
            for left_out, total, square in zip(diverged, sums[name], squares[name], strict=True):
                _require_possible(name, measure, tasks - left_out, (total, square))
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


def _require_possible(name: str, measure: Measure, tasks: int, sums: tuple[float, float]) -> None:
    """Refuse sums that no values of that many tasks can have, such as a loss when all tasks diverged.

    Raises:
        RefusedError: If the sums are impossible.
    """
    total, square = sums
    most = tasks * (1 + _ROUNDING)
    # By Cauchy and Schwarz, the square of a sum of n numbers is at most n times that of their squares.
    if square < 0 or abs(total) > math.sqrt(square) * math.sqrt(most) + _TINY:
        raise RefusedError(RefusalCode.EVALUATION_SQUARES, name=name, tasks=tasks)
    low, high = measure.bounds(_ROUNDING)
    largest = max(low * low, high * high)
    # With no tasks the sum is 0 whatever the bounds, which may be infinite.
    if tasks and not (low * tasks <= total <= high * tasks and square <= largest * tasks):
        low, high = measure.bounds()
        raise RefusedError(RefusalCode.EVALUATION_SUM, name=name, tasks=tasks, low=low, high=high)


@dataclass(frozen=True)
class Federation:
    """The server's access to its clients, on any engine.

    Attributes:
        learner: Gives the format of states and replies; its clients' data are not used.
        grid: Connects to the clients.
        in_turn: Whether clients are computed one after the other in this process, so that each gets the
            whole timeout of a test.
        states: Clients' memory, if they have one: which updates counted and, for clients computed in
            this process, the memory itself; None: in RAM.
    """

    learner: Learner
    grid: Grid
    in_turn: bool = False
    states: ClientStates | None = None

    def evaluate(
        self, state: Tensors, round_: int, clients: Sequence[int], timeout: float
    ) -> dict[int, EvaluationSums]:
        """Evaluate a state on held-out clients, whose nodes must have registered.

        Args:
            state: The meta-learned state.
            round_: Evaluate after this round; 0: after the last.
            clients: Partition ids.
            timeout: Seconds to wait for replies.

        Returns:
            The sums of each client with a valid reply, by its id.
        """
        return self._ask(state, round_, clients, timeout)[0]

    def test(self, state: Tensors, split: Split, timeout: float) -> dict[int, EvaluationSums]:
        """Evaluate a final state on each client of a split, once the nodes have registered.

        Args:
            state: The meta-learned state.
            split: Which clients.
            timeout: Seconds to wait for replies; see `in_turn`.

        Returns:
            Each client's sums by its id; nothing if the split has no clients.

        Raises:
            LearnersFailedError: If no client of the split could be evaluated.
        """
        population = self.learner.workload.population
        clients = population.clients(split)
        if not clients:
            return {}
        seconds = timeout * len(clients) if self.in_turn else timeout
        if not self.in_turn:
            wait_for_nodes(self.grid, len(population), timeout)
        found, problem = self._ask(state, 0, clients, seconds)
        if not found:
            why = problem or f"no reply within {seconds:g} s"
            raise LearnersFailedError(
                f"none of the {len(clients)} {split} clients could be evaluated: {why}"
            )
        if len(found) < len(clients):
            log.warning(
                "only %d of the %d %s clients could be evaluated", len(found), len(clients), split
            )
        return found

    def _ask(
        self, state: Tensors, round_: int, clients: Sequence[int], timeout: float
    ) -> tuple[dict[int, EvaluationSums], str | None]:
        """Return the sums by client, and why the first reply was skipped."""
        learner, grid = self.learner, self.grid
        assert isinstance(grid, Addresses)
        steps = len(learner.workload.evaluation_steps)
        gate = EvaluationGate(learner.evaluation_measures, steps, learner.evaluation_count)
        arrays = Codec(learner.template).encode(state)
        asked = requests(MessageType.EVALUATE, round_, arrays, clients, grid)
        replies = grid.send_and_receive(asked, timeout=timeout)
        return dict(gate.admitted(round_, by_client(replies, grid))), gate.problem
