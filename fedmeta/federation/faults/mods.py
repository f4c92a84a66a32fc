"""Faults of the clients themselves, as a Flower mod that works on every engine."""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod
from typing_extensions import override

from fedmeta.federation.client import (
    ARRAYS,
    CONFIG,
    METRICS,
    ROUND,
    TASKS,
    build_client_app,
    partition_of,
    read_request,
)
from fedmeta.federation.faults.plan import Fault, FaultPlan
from fedmeta.federation.flower import numpy_array
from fedmeta.federation.learner import Learner
from fedmeta.learning import Tensors
from fedmeta.tasks import TaskBatch, stream

BY_MOD = (
    "crash-before",
    "crash-during",
    "crash-after",
    "old-round",
    "wrong-keys",
    "wrong-shapes",
    "wrong-dtypes",
    "nan",
    "huge-tasks",
    "garbage",
    "no-records",
)
"""Kinds that change what a client does, not when or how often its reply arrives."""

HUGE = 10**9


class CrashError(Exception):
    """A planned crash of a client."""


class CrashingLearner(Learner):
    """Crashes after computing its updates, before sending them."""

    @override
    def local_update(
        self, start: tuple[Tensors, Tensors], round_: int, clients: Sequence[int], tasks: TaskBatch
    ) -> tuple[Tensors, ...]:
        super().local_update(start, round_, clients, tasks)
        raise CrashError("crashed while it trained")


def fault_mod(faults: FaultPlan, learner: Learner) -> Mod:
    """Return the mod that gives clients their faults.

    It changes what a client does; the grid decides when and how often its reply arrives, see
    `with_faults`.

    Args:
        faults: The plan.
        learner: The clients' side of the workload.
    """

    def play(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if message.metadata.message_type != MessageType.TRAIN:
            return call_next(message, context)
        _, round_ = read_request(message)
        client = partition_of(context)
        fault = faults.due(round_, client)
        if fault is None or fault.kind not in BY_MOD:
            return call_next(message, context)
        return _Client(learner, faults.seed, round_, client).reply(fault, message, context, call_next)

    return play


def mods_in(faults: FaultPlan, learner: Learner) -> Callable[[int, int], Sequence[Mod]]:
    """Return a function of round and client that returns the mods for the client's fault."""
    mod = fault_mod(faults, learner)

    def mods(round_: int, client: int) -> Sequence[Mod]:
        fault = faults.due(round_, client)
        return (mod,) if fault and fault.kind in BY_MOD else ()

    return mods


class _Client:
    """One client in the round of its fault."""

    def __init__(self, learner: Learner, seed: int, round_: int, client: int) -> None:
        self.learner = learner
        self.seed = seed
        self.round = round_
        self.client = client

    def reply(
        self, fault: Fault, message: Message, context: Context, call_next: ClientAppCallable
    ) -> Message:
        """Answer a request as a client with this fault does."""
        if fault.kind == "crash-before":
            raise CrashError("crashed before it trained")
        if fault.kind == "crash-during":
            broken = CrashingLearner(self.learner.workload, self.learner.family, self.learner.algorithm)
            return build_client_app(broken)(message, context)
        if fault.kind == "old-round":
            cast(Any, message.content[CONFIG])[ROUND] = self.round - 1
        reply = call_next(message, context)
        if fault.kind == "crash-after":
            raise CrashError("crashed after it trained")
        if fault.kind == "garbage":
            self._garble(cast(ArrayRecord, reply.content[ARRAYS]))
        elif spoil := _SPOILERS.get(fault.kind):
            spoil(reply.content)
        return reply

    def _garble(self, arrays: ArrayRecord) -> None:
        rng = stream(self.seed, "garbage", self.round, self.client)
        for key, array in list(arrays.items()):
            arrays[key] = numpy_array(array.dtype, tuple(array.shape), rng.bytes(len(array.data)))


def _wrong_keys(content: RecordDict) -> None:
    arrays = cast(ArrayRecord, content[ARRAYS])
    arrays["unheard-of"] = arrays.pop(next(iter(arrays)))


def _wrong_shapes(content: RecordDict) -> None:
    _change_first(content, lambda values: np.append(values.reshape(-1), values.dtype.type(0)))


def _wrong_dtypes(content: RecordDict) -> None:
    _change_first(content, lambda values: values.astype(np.float16))


def _nan(content: RecordDict) -> None:
    def spoil(values: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        spoilt = values.copy()
        spoilt.reshape(-1)[0] = math.nan
        return spoilt

    _change_first(content, spoil)


def _huge_tasks(content: RecordDict) -> None:
    cast(Any, content[METRICS])[TASKS] = HUGE


def _no_records(content: RecordDict) -> None:
    content.clear()


def _change_first(
    content: RecordDict, change: Callable[["np.ndarray[Any, Any]"], "np.ndarray[Any, Any]"]
) -> None:
    """Change the first array of real numbers in a reply."""
    arrays = cast(ArrayRecord, content[ARRAYS])
    key = next(key for key, array in arrays.items() if array.dtype.startswith("float"))
    arrays[key] = Array(change(arrays[key].numpy()))


_SPOILERS: dict[str, Callable[[RecordDict], None]] = {
    "wrong-keys": _wrong_keys,
    "wrong-shapes": _wrong_shapes,
    "wrong-dtypes": _wrong_dtypes,
    "nan": _nan,
    "huge-tasks": _huge_tasks,
    "no-records": _no_records,
}
