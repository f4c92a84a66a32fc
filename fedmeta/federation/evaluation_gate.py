"""The gate of evaluation: validates what clients reply about their tests."""

import logging
import math
from collections.abc import Callable, Iterable, Sequence

from flwr.app import ConfigRecord, Message, MetricRecord

from fedmeta.federation.client import CONFIG, DIVERGED, METRICS, ROUND, TASKS
from fedmeta.federation.evaluation import EvaluationSums
from fedmeta.federation.gate import client_failed, show
from fedmeta.federation.refusal import RefusalCode, RefusedError

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
