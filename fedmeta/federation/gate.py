"""The admission gate, which checks every reply before it is used."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    ConfigRecordValues,
    Message,
    MetricRecord,
    MetricRecordValues,
    RecordDict,
)
from numpy.typing import NDArray

from fedmeta.federation.accounts import SIGNATURE, Checking
from fedmeta.federation.client import ARRAYS, CONFIG, METRICS, ROUND, TASKS, StackedUpdate
from fedmeta.federation.client_memory import FORGOT
from fedmeta.federation.codec import Codec
from fedmeta.federation.flower import LazyReply
from fedmeta.federation.records import SignedUpdate
from fedmeta.federation.refusal import Refusal, RefusalCode, RefusedError
from fedmeta.federation.round_plan import GateOptions
from fedmeta.tasks import Measure

Metrics = Mapping[str, MetricRecordValues]
Config = Mapping[str, ConfigRecordValues]

_PARTS = {ARRAYS: ArrayRecord, METRICS: MetricRecord, CONFIG: ConfigRecord}


@dataclass(frozen=True)
class Update:
    """An admitted pseudo-gradient.

    Attributes:
        client: Partition id.
        tasks: Number of tasks, its weight in the mean.
        vector: All values, flat float64 ``[D]``. The buffer is reused for the next reply: copy to keep.
        norm: Euclidean norm of the checked values of `vector`.
        metrics: The client's own means over its tasks.
        fingerprint: Equal for equal vectors, and in practice only for these.
        signed: The signature and its account; None where replies are not signed.
        forgot: Whether the client lost its memory, and started afresh.
    """

    client: int
    tasks: int
    vector: NDArray[np.float64]
    norm: float
    metrics: dict[str, float]
    fingerprint: tuple[float, float] = (0.0, 0.0)
    signed: SignedUpdate | None = None
    forgot: bool = False


_ROUNDING = 1e-6
"""Relative rounding error of a single-precision mean."""
_LINE = 225
"""Characters kept of a client's error message."""
_SAMPLED = 16
"""Number of evenly spaced values in a fingerprint, besides the norm."""


class AdmissionGate:
    """Admits or refuses training replies; it never raises, whatever a reply holds.

    Args:
        options: The bounds.
        codec: Codec of the state, which gives the right keys, shapes and dtypes.
        measures: Metrics that every reply must include, with their possible values.
        asked_tasks: Tasks requested of each client.
        signatures: Checks signatures; None: replies need no signature.
        checked: Indices of the values in the norm and the fingerprint; None: all.
        remembering: Whether clients have memory, and may report that they lost it.
    """

    def __init__(  # noqa: PLR0913 (three are optional)
        self,
        options: GateOptions,
        codec: Codec,
        measures: Mapping[str, Measure],
        asked_tasks: int,
        signatures: Checking | None = None,
        checked: NDArray[np.intp] | None = None,
        remembering: bool = False,
    ) -> None:
        self.options = options
        self.codec = codec
        self.measures = dict(measures)
        self.max_tasks = options.max_tasks or asked_tasks
        self.signatures = signatures
        self._vector = np.empty(codec.size)
        self._view = torch.from_numpy(self._vector)
        self._checked = checked
        values = range(codec.size) if checked is None else checked
        step = max(1, len(values) // _SAMPLED)
        self._sample = slice(None, None, step) if checked is None else checked[::step]
        self._fitting = codec
        self._settings = {ROUND, SIGNATURE, FORGOT} if remembering else {ROUND, SIGNATURE}

    def check(self, client: int, round_: int, replies: Sequence[Message]) -> Update | Refusal:
        """Check all replies of one client in one round.

        Args:
            client: The client according to the grid, not to the reply.
            round_: The requested round.
            replies: Its replies; if there are several, none counts.
        """
        if len(replies) != 1:
            return Refusal(RefusalCode.SEVERAL_REPLIES, {"count": len(replies)})
        try:
            return self._admit(client, round_, replies[0])
        except RefusedError as refused:
            return refused.refusal
        except Exception as error:
            # Records are untrusted and may break the readers in unforeseen ways.
            return Refusal(RefusalCode.UNREADABLE, {"error": type(error).__name__})

    def _admit(self, client: int, round_: int, reply: Message) -> Update:
        arrays, metrics, config = self._open(reply)
        if (claimed := config.get(ROUND)) != round_ or isinstance(claimed, bool):
            raise RefusedError(RefusalCode.WRONG_ROUND, claimed=show(claimed), round=round_)
        tasks = self._check_tasks(metrics)
        values = self._check_metrics(metrics)
        self._read(arrays)
        norm = self._check_norm()
        signed = self._check_signature(client, round_, tasks, arrays, config)
        fingerprint, forgot = self._fingerprint(norm), bool(config.get(FORGOT))
        return Update(client, tasks, self._vector, norm, values, fingerprint, signed, forgot)

    def _open(self, reply: Message) -> tuple[ArrayRecord | StackedUpdate, Metrics, Config]:
        """Return the parts of a reply; one from this process is not written as records first."""
        if isinstance(reply, LazyReply) and self.signatures is None:
            update = reply.unwritten
            if isinstance(update, StackedUpdate) and self._fits(update):
                return update, update.metrics, update.config
        return _open(reply)

    def _fits(self, update: StackedUpdate) -> bool:
        """Return whether an update has the keys, shapes and dtypes of the state."""
        if update.codec is not self._fitting:
            if update.flat is None or update.codec.slots != self.codec.slots:
                return False
            self._fitting = update.codec
        return update.flat is not None

    def _read(self, arrays: ArrayRecord | StackedUpdate) -> None:
        if isinstance(arrays, ArrayRecord):
            self.codec.read_into(arrays, self._vector)
        elif arrays.flat is not None:
            self.codec.read_row(arrays.flat, arrays.row, self._vector)

    def _check_signature(
        self,
        client: int,
        round_: int,
        tasks: int,
        arrays: ArrayRecord | StackedUpdate,
        config: Config,
    ) -> SignedUpdate | None:
        if extra := sorted(config.keys() - self._settings):
            raise RefusedError(RefusalCode.EXTRA_CONFIG, key=show(extra[0]))
        signature = config.get(SIGNATURE)
        if self.signatures is None or not isinstance(arrays, ArrayRecord):
            return None
        if not isinstance(signature, bytes):
            raise RefusedError(RefusalCode.NOT_SIGNED)
        digest = self.codec.digest(arrays)
        if not self.signatures.check(client, round_, tasks, digest, signature):
            raise RefusedError(RefusalCode.WRONG_SIGNATURE)
        return SignedUpdate(self.signatures.account(client), digest, signature)

    def _fingerprint(self, norm: float) -> tuple[float, float]:
        # Norms of different updates rarely agree to the last bit, except where some signs are flipped;
        # the sum of some values tells these apart.
        return norm, float(self._vector[self._sample].sum())

    def _check_tasks(self, metrics: Metrics) -> int:
        if TASKS not in metrics:
            raise RefusedError(RefusalCode.NO_TASK_COUNT, key=TASKS)
        tasks = metrics[TASKS]
        if type(tasks) is not int:
            raise RefusedError(RefusalCode.TASK_COUNT_TYPE, value=show(tasks))
        if not 1 <= tasks <= self.max_tasks:
            raise RefusedError(RefusalCode.TASK_COUNT, value=show(tasks), most=self.max_tasks)
        return tasks

    def _check_metrics(self, metrics: Metrics) -> dict[str, float]:
        values: dict[str, float] = {}
        for name, measure in self.measures.items():
            value = metrics.get(name)
            if type(value) is not float:
                raise RefusedError(RefusalCode.METRIC_TYPE, key=name, value=show(value))
            if not math.isfinite(value):
                raise RefusedError(RefusalCode.METRIC_DIVERGED, key=name, value=str(value))
            low, high = measure.bounds(_ROUNDING)
            if not low <= value <= high:
                low, high = measure.bounds()
                raise RefusedError(RefusalCode.METRIC_RANGE, key=name, value=value, low=low, high=high)
            values[name] = value
        if len(metrics) != len(values) + 1:
            extra = sorted(set(metrics) - set(values) - {TASKS})
            raise RefusedError(RefusalCode.EXTRA_METRIC, key=show(extra[0]))
        return values

    def _check_norm(self) -> float:
        seen = self._view if self._checked is None else self._view[self._checked]
        square = float(torch.dot(seen, seen))
        if not math.isfinite(square) or (self._checked is not None and not self._view.isfinite().all()):
            # Either a value is not finite, or the square of a finite one overflowed.
            self._check_finite()
        norm = math.sqrt(square)
        if norm > self.options.max_norm:
            raise RefusedError(RefusalCode.NORM, norm=norm, limit=self.options.max_norm)
        return norm

    def _check_finite(self) -> None:
        for slot in self.codec.slots:
            values = self._vector[slot.start : slot.stop]
            if np.isnan(values).any():
                raise RefusedError(RefusalCode.NAN, key=slot.key)
            if np.isinf(values).any():
                raise RefusedError(RefusalCode.INFINITE, key=slot.key)


def _open(reply: Message) -> tuple[ArrayRecord, MetricRecord, ConfigRecord]:
    if reply.has_error():
        raise client_failed(reply)
    if not reply.has_content() or not isinstance(reply.content, RecordDict):
        raise RefusedError(RefusalCode.NO_CONTENT)
    content = reply.content
    for key, kind in _PARTS.items():
        if not isinstance(content.get(key), kind):
            raise RefusedError(RefusalCode.MISSING_RECORD, key=key, kind=kind.__name__)
    if len(content) != len(_PARTS):
        extra = sorted(set(content) - set(_PARTS))
        raise RefusedError(RefusalCode.EXTRA_RECORD, key=show(extra[0]))
    return content[ARRAYS], content[METRICS], content[CONFIG]  # type: ignore[return-value]


def client_failed(reply: Message) -> RefusedError:
    """Return the refusal of an error reply, with the first line of its reason."""
    lines = (reply.error.reason or f"code {reply.error.code}").strip().splitlines()
    return RefusedError(
        RefusalCode.CLIENT_ERROR, line=(lines[0] if lines else "no reason given")[:_LINE]
    )


def show(value: object) -> str:
    """Return the `repr` of any value, shortened to 40 characters."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
