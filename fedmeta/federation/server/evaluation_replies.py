"""What the server believes of an evaluation reply."""

import logging
import math
from collections.abc import Iterable, Sequence

from flwr.app import ConfigRecord, Message, MetricRecord

from fedmeta.federation.client import CONFIG, METRICS, ROUND, TASKS
from fedmeta.federation.evaluation import EvaluationSums

log = logging.getLogger(__name__)


class EvaluationGate:
    """Reads evaluation replies and leaves out, with a warning, those that make no sense.

    Args:
        names: Quantities that every reply must carry.
        steps: How many adaptation steps are reported.
        tasks: How many tasks each client was asked to evaluate.
    """

    def __init__(self, names: Sequence[str], steps: int, tasks: int) -> None:
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
                yield client, self._read(round_, sent)
            except Exception as error:
                # Records are a client's to fill; one that breaks the reader is left out like the rest.
                self.problem = self.problem or f"client {client}: {error}"
                log.warning("round %d: evaluation of client %d is left out: %s", round_, client, error)

    def _read(self, round_: int, sent: Sequence[Message]) -> EvaluationSums:
        if len(sent) != 1:
            raise ValueError(f"{len(sent)} replies")
        reply = sent[0]
        if reply.has_error():
            raise ValueError(f"client failed: {reply.error.reason}")
        metrics, config = reply.content.get(METRICS), reply.content.get(CONFIG)
        if not isinstance(metrics, MetricRecord) or not isinstance(config, ConfigRecord):
            raise ValueError("no metrics or config")
        if config.get(ROUND) != round_:
            raise ValueError(f"reply to round {config.get(ROUND)!r}")
        tasks = metrics.get(TASKS)
        if type(tasks) is not int or not 1 <= tasks <= self.tasks:
            raise ValueError(f"task count {tasks!r}")
        sums = {name: self._numbers(metrics, f"{name}-sum") for name in self.names}
        squares = {name: self._numbers(metrics, f"{name}-squares") for name in self.names}
        return EvaluationSums(tasks, sums, squares)

    def _numbers(self, metrics: MetricRecord, key: str) -> list[float]:
        values = metrics.get(key)
        if not isinstance(values, list) or len(values) != self.steps:
            raise ValueError(f"'{key}' is no list of {self.steps}")
        numbers = [float(value) for value in values]
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"'{key}' is not finite")
        return numbers
