"""Tally of a round's replies: checks each as it arrives, and aggregates those admitted."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from flwr.app import ArrayRecord, Message
from numpy.typing import NDArray

from fedmeta.errors import DivergedError
from fedmeta.federation.accounts import Preview, Scorer
from fedmeta.federation.aggregation import Aggregator
from fedmeta.federation.client import ARRAYS, StackedUpdate
from fedmeta.federation.cohort import Receiver
from fedmeta.federation.flower import LazyReply
from fedmeta.federation.gate import AdmissionGate, Update
from fedmeta.federation.records import ClientRecord, RoundRecord
from fedmeta.federation.refusal import Refusal, RefusalCode
from fedmeta.federation.round_plan import Plan, advice

log = logging.getLogger(__name__)


@dataclass
class MetricMean:
    """Task-weighted means of the clients' metrics."""

    tasks: int = 0

    def __post_init__(self) -> None:
        self._sums: dict[str, float] = {}

    def add(self, update: Update) -> None:
        """Add one client's metrics."""
        self.tasks += update.tasks
        for name, value in update.metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + update.tasks * value

    def means(self) -> dict[str, float]:
        """Return the mean of each metric over tasks; empty if no client reported any."""
        return {name: total / self.tasks for name, total in self._sums.items()}


class RoundTally:
    """Processes the replies of one round as they arrive, holding one at a time.

    Args:
        round_: The round.
        cohort: The clients that were asked.
        gate: Checks each reply.
        aggregator: Aggregates the admitted updates.
        scorer: Scores admitted updates; if it reads their values, they are all held.
        scored: Indices of the values that it reads; None: all.
    """

    def __init__(  # noqa: PLR0913 (two are optional)
        self,
        round_: int,
        cohort: Sequence[int],
        gate: AdmissionGate,
        aggregator: Aggregator,
        scorer: Scorer | None = None,
        scored: NDArray[np.intp] | None = None,
    ) -> None:
        self.round = round_
        self.cohort = cohort
        self.gate = gate
        self.scorer = scorer
        self.admitted = 0
        self.bytes_up = 0
        self.metrics = MetricMean()
        self.aggregator = aggregator
        self._awaited = set(cohort)
        self._records: list[ClientRecord] = []
        self._places = slice(None) if scored is None else scored
        self._scored: list[Update] = []
        self._seen: dict[tuple[float, float], int] = {}
        self._non_finite: list[tuple[int, Refusal]] = []

    def take(self, client: int, sent: Sequence[Message]) -> None:
        """Check what one client sent, and aggregate it if it is valid."""
        self.bytes_up += sum(_array_bytes(message) for message in sent)
        if client not in self._awaited:
            self._refuse(client, Refusal(RefusalCode.NOT_ASKED))
            return
        self._awaited.discard(client)
        verdict = self._refuse_copy(self.gate.check(client, self.round, sent))
        if isinstance(verdict, Refusal):
            self._refuse(client, verdict)
        else:
            self._admit(verdict)

    def close(self, plan: Plan, receiver: Receiver | None = None) -> None:
        """Record the clients without a reply.

        Args:
            plan: Gives the timeout.
            receiver: Knows which clients were late or not needed; None: all are lost.

        Raises:
            DivergedError: If every client's update was non-finite.
        """
        for client in sorted(self._awaited):
            self._refuse(client, _missing(client, plan, receiver))
        self._records.sort(key=lambda record: record.client)
        if self._non_finite and len(self._non_finite) == len(self.cohort):
            client, first = self._non_finite[0]
            raise DivergedError(
                f"round {self.round} diverged: the update of every client was non-finite "
                f"(client {client}: {first}); {advice(plan)}"
            )

    def award(self, preview: Preview) -> None:
        """Let the scorer set the pay of each admitted client; the tally must be closed."""
        if self.scorer is None or not self._scored:
            return
        awards = self.scorer.award(self.round, self._scored, preview)
        self._records = [replace(r, award=awards.get(r.client)) for r in self._records]
        self._scored = []

    @property
    def admitted_clients(self) -> list[int]:
        """Clients whose updates were aggregated, by partition id."""
        return sorted(record.client for record in self._records if record.admitted)

    @cached_property
    def pseudo_gradient(self) -> NDArray[np.float64]:
        """The aggregated update ``[D]``; the tally must be closed."""
        return self.aggregator.result()

    def record(self, skipped: bool, lr: float, bytes_each: int) -> RoundRecord:
        """Return the round's record; the tally must be closed."""
        counts = Counter(record.outcome for record in self._records)
        return RoundRecord(
            round=self.round,
            skipped=skipped,
            cohort=len(self.cohort),
            admitted=self.admitted,
            quarantined=counts["quarantined"],
            late=counts["late"],
            lost=counts["lost"],
            surplus=counts["surplus"],
            tasks=0 if skipped else self.metrics.tasks,
            measures=self.metrics.means(),
            update_norm=0.0 if skipped else _norm(self.pseudo_gradient),
            lr=lr,
            bytes_down=len(self.cohort) * bytes_each,
            bytes_up=self.bytes_up,
            evaluation=None,
            test=None,
            clients=tuple(self._records),
        )

    def _admit(self, update: Update) -> None:
        self.admitted += 1
        if update.forgot:
            log.warning(
                "round %d: client %d lost its memory, and started afresh", self.round, update.client
            )
        self.aggregator.add(update)
        self.metrics.add(update)
        if self.scorer:
            values = update.vector[self._places]
            kept = values.copy() if self.scorer.wants_vectors else values[:0]
            self._scored.append(replace(update, vector=kept))
        after = {k: v for k, v in update.metrics.items() if not k.endswith("_before")}
        self._records.append(
            ClientRecord(
                self.round,
                update.client,
                update.tasks,
                update.norm,
                True,
                None,
                after,
                update.signed,
            )
        )

    def _refuse_copy(self, verdict: Update | Refusal) -> Update | Refusal:
        # Zero updates are no evidence of copying: both clients may have learned nothing.
        if isinstance(verdict, Refusal) or not verdict.norm:
            return verdict
        first = self._seen.setdefault(verdict.fingerprint, verdict.client)
        if first == verdict.client:
            return verdict
        return Refusal(RefusalCode.COPY, {"first": first, "norm": verdict.norm})

    def _refuse(self, client: int, refusal: Refusal) -> None:
        if refusal.non_finite:
            self._non_finite.append((client, refusal))
        self._records.append(ClientRecord(self.round, client, 0, refusal.norm, False, refusal))


def _missing(client: int, plan: Plan, receiver: Receiver | None) -> Refusal:
    if receiver and client in receiver.surplus:
        return Refusal(RefusalCode.SURPLUS, {"cohort": plan.cohort})
    arrival = receiver.arrival(client) if receiver else None
    if arrival is not None and arrival > plan.timeout:
        return Refusal(RefusalCode.LATE, {"arrival": arrival, "timeout": plan.timeout})
    return Refusal(RefusalCode.LOST, {"timeout": plan.timeout})


def _norm(vector: NDArray[np.float64]) -> float:
    # NumPy's norm would start a thread pool of its own, despite torch's single thread.
    return float(torch.linalg.vector_norm(torch.from_numpy(vector)))


def _array_bytes(message: Message) -> int:
    if isinstance(message, LazyReply) and isinstance(message.unwritten, StackedUpdate):
        return message.unwritten.codec.total_bytes
    try:
        arrays = message.content[ARRAYS] if message.has_content() else None
        return (
            sum(len(array.data) for array in arrays.values()) if isinstance(arrays, ArrayRecord) else 0
        )
    except Exception:
        # A client may send records whose size cannot even be read; the gate refuses them.
        return 0
