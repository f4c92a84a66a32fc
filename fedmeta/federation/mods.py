"""A user's Flower mods around every client's training, shown messages in Flower's own format."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    ConfigRecordValues,
    Context,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedmeta.federation.client import ARRAYS, CONFIG, METRICS, ROUND, TASKS
from fedmeta.federation.flower_replies import (
    EXAMPLES,
    SERVER_ROUND,
    Arrays,
    is_stock,
    to_record,
    weights_of,
)
from fedmeta.federation.part_tables import load_mods


def user_mods(paths: Sequence[str], local_lr: float) -> list[Mod]:
    """Return one mod that puts a user's mods around training; empty if there are no paths.

    The user's mods see requests and replies in the format of Flower's own strategies, with weights in
    float64. Tensors that they do not change are passed on bit for bit.

    Args:
        paths: Dotted paths, the outermost first.
        local_lr: Step size of the clients' local steps.

    Raises:
        ConfigError: As `load_mods`.
    """
    mods = load_mods(paths)
    if not mods:
        return []

    def play(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if message.metadata.message_type != MessageType.TRAIN:
            return call_next(message, context)
        if is_stock(message):
            return _around(call_next, mods)(message, context)
        return _Exchange(message, call_next, local_lr).through(mods, context)

    return [play]


class _Exchange:
    """One training request and its reply, converted for mods."""

    def __init__(self, message: Message, call_next: ClientAppCallable, lr: float) -> None:
        self.message = message
        self.call_next = call_next
        self.lr = lr
        self.arrays = message.content.array_records[ARRAYS]
        self.config = dict(message.content.config_records[CONFIG])
        self.state = _wide(self.arrays)
        self.answer = RecordDict()
        self.weights = ArrayRecord()

    def through(self, mods: Sequence[Mod], context: Context) -> Message:
        """Pass the request through the mods, and return the reply in fedmeta's format."""
        shown = {key: value for key, value in self.config.items() if key != ROUND}
        shown[SERVER_ROUND] = self.config[ROUND]
        self.message.content = _request(to_record(self.state), shown)
        reply = _around(self._client, mods)(self.message, context)
        return reply if reply.has_error() else self._as_update(reply)

    def _client(self, message: Message, context: Context) -> Message:
        """Let the client answer the request, and return its weights in place of its update."""
        seen = message.content
        state = _wide(next(iter(seen.array_records.values())))
        config = dict(next(iter(seen.config_records.values())))
        del config[SERVER_ROUND]
        narrow = {key: values.astype(self.arrays[key].dtype) for key, values in state.items()}
        message.content = _request(to_record(narrow), {**config, ROUND: self.config[ROUND]})
        reply = self.call_next(message, context)
        message.content = seen
        if reply.has_error():
            return reply
        self.answer = reply.content
        update = {key: array.numpy() for key, array in self.answer.array_records[ARRAYS].items()}
        self.weights = to_record(weights_of(state, update, self.lr))
        metrics = dict(self.answer.metric_records[METRICS])
        metrics[EXAMPLES] = metrics.pop(TASKS)
        weights = self.weights.copy()
        reply.content = RecordDict({ARRAYS: weights, METRICS: MetricRecord(metrics)})
        return reply

    def _as_update(self, reply: Message) -> Message:
        """Turn the weights that the mods returned back into an update."""
        before = self.answer.array_records[ARRAYS]
        weights = next(iter(reply.content.array_records.values()))
        metrics = dict(next(iter(reply.content.metric_records.values())))
        metrics[TASKS] = metrics.pop(EXAMPLES)
        arrays = dict(before)
        for key, values in self.state.items():
            if weights[key].data != self.weights[key].data:
                changed = (values - weights[key].numpy()) / self.lr
                arrays[key] = Array(np.asarray(changed.astype(before[key].dtype)))
        reply.content = RecordDict(
            {
                ARRAYS: ArrayRecord(arrays),
                METRICS: MetricRecord(metrics),
                CONFIG: self.answer.config_records[CONFIG],
            }
        )
        return reply


def _request(arrays: ArrayRecord, config: dict[str, ConfigRecordValues]) -> RecordDict:
    return RecordDict({ARRAYS: arrays, CONFIG: ConfigRecord(config)})


def _around(app: ClientAppCallable, mods: Sequence[Mod]) -> ClientAppCallable:
    for mod in reversed(mods):
        app = partial(_call, mod, app)
    return app


def _call(mod: Mod, call_next: ClientAppCallable, message: Message, context: Context) -> Message:
    return mod(message, context, call_next)


def _wide(record: ArrayRecord) -> Arrays:
    """Read arrays, floating-point ones as float64."""
    read = {key: array.numpy() for key, array in record.items()}
    return {key: v.astype(np.float64) if v.dtype.kind == "f" else v for key, v in read.items()}
