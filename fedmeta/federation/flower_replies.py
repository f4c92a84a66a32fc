"""Replies in the format that Flower's own strategies expect: weights, `num-examples`, `server-round`.

Between fedmeta's server and clients a reply holds a pseudo-gradient g. Here it becomes the weights
``theta - local_lr * g``, at which a client's local steps end.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedmeta.federation.failures import report
from fedmeta.federation.flower import client_error
from fedmeta.federation.learner import Learner
from fedmeta.learning import Tensors

METRICS = "metrics"
ROUND = "round"
"""Key of the round in requests of fedmeta's server."""
EXAMPLES = "num-examples"
"""Key of the weight in Flower's strategies; a task counts as an example, as in fedmeta's own mean."""
SERVER_ROUND = "server-round"
PROXIMAL = "proximal-mu"

Arrays = dict[str, NDArray[Any]]

_REMEMBERS = (
    "clients of algorithm '{}' keep memory between rounds, which Flower's own strategies do not support"
)


class WrongStateError(ValueError):
    """Arrays are not a state of the model; the message is one short reason."""


def is_stock(message: Message) -> bool:
    """Return whether a request is from one of Flower's strategies, not from fedmeta's server."""
    if not message.has_content():
        return False
    return any(SERVER_ROUND in config for config in message.content.config_records.values())


def read_arrays(record: ArrayRecord, template: Tensors) -> Arrays:
    """Read the tensors of a state in the precision in which they were sent: FedAdam sends float64.

    Raises:
        WrongStateError: If keys or shapes are not those of `template`, or a value is not finite.
    """
    if problem := sorted(record.keys() ^ template.keys()):
        what = "is missing" if problem[0] in template else "is not part of the model"
        raise WrongStateError(f"'{problem[0]}' {what}")
    arrays = {key: record[key].numpy() for key in template}
    for key, values in arrays.items():
        if values.shape != tuple(template[key].shape):
            raise WrongStateError(f"'{key}' has shape {values.shape}, not {tuple(template[key].shape)}")
        if values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            raise WrongStateError(f"'{key}' holds values that are not finite")
    return arrays


def to_state(arrays: Arrays, template: Tensors) -> Tensors:
    """Return arrays as tensors of the template's dtypes; integers are rounded, not truncated."""

    def convert(key: str) -> torch.Tensor:
        values = torch.from_numpy(np.array(arrays[key]))
        dtype = template[key].dtype
        return (values if dtype.is_floating_point else values.round()).to(dtype)

    return {key: convert(key) for key in template}


def weights_of(
    state: Mapping[str, NDArray[Any]], update: Mapping[str, NDArray[Any]], lr: float
) -> Arrays:
    """Return ``theta - lr * g`` in the precision of `state`; integers stay unchanged."""
    return {
        key: (values - lr * update[key]).astype(values.dtype) if values.dtype.kind == "f" else values
        for key, values in state.items()
    }


def to_record(arrays: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    """Serialize arrays."""
    return ArrayRecord({key: Array(np.asarray(values)) for key, values in arrays.items()})


class StockReplies:
    """Answers Flower's own strategies for any client.

    Args:
        learner: The clients' side of the workload.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    def train(self, message: Message, client: int) -> Message:
        """Answer with weights, under the request's key, and metrics with `num-examples`.

        A held-out client, or one whose update is not finite, answers with an error, which these
        strategies skip; they would average anything else.

        Raises:
            ValueError: If it is not such a request, or its arrays do not fit the model.
        """
        learner, round_, key, record = self._read(message)
        if learner.memory_template:
            return client_error(_REMEMBERS.format(learner.workload.setup.algorithm), message)
        split = learner.workload.population.split_of(client)
        if split != "train":
            return client_error(f"client {client} is held out for {split}: it does not train", message)
        sent = read_arrays(record, learner.template)
        update = learner.train(to_state(sent, learner.template), round_, [client])
        if client in update.failures:
            report(round_, client, update.failures[client])
            return client_error(update.failures[client].reason, message)
        own = {name: stack[0].numpy() for name, stack in update.updates.items()}
        metrics = {name: float(column[0]) for name, column in update.metrics.items()}
        weights = weights_of(sent, own, learner.workload.local_lr)
        bad = [name for name, values in weights.items() if not np.isfinite(values).all()]
        if bad:
            return client_error(f"diverged: '{bad[0]}' is not finite after training", message)
        # In the request's order: some of Flower's mods compare the keys as lists.
        arrays = to_record({name: weights[name] for name in record})
        return self._reply(message, metrics | {EXAMPLES: update.tasks}, {key: arrays})

    def evaluate(self, message: Message, client: int) -> Message:
        """Answer with means over the client's tasks, overall after the last step and after each step.

        Raises:
            ValueError: As `train`.
        """
        learner, round_, _, record = self._read(message)
        state = to_state(read_arrays(record, learner.template), learner.template)
        found = learner.evaluate(state, client, round_)
        metrics: dict[str, Any] = {EXAMPLES: found.tasks}
        for name, sums in found.sums.items():
            means = [value / found.tasks for value in sums]
            metrics[name] = means[-1]
            steps = learner.workload.evaluation_steps
            metrics |= {f"{name}-step-{step}": mean for step, mean in zip(steps, means, strict=True)}
        return self._reply(message, metrics, {})

    def _read(self, message: Message) -> tuple[Learner, int, str, ArrayRecord]:
        arrays = list(message.content.array_records.items())
        configs = list(message.content.config_records.values())
        config = configs[0] if len(configs) == 1 else {}
        round_ = config.get(SERVER_ROUND, config.get(ROUND))
        if len(arrays) != 1 or type(round_) is not int:
            raise ValueError(f"a request needs one ArrayRecord and a ConfigRecord with '{SERVER_ROUND}'")
        return with_proximal(self.learner, config), round_, *arrays[0]

    @staticmethod
    def _reply(message: Message, metrics: Mapping[str, Any], arrays: dict[str, ArrayRecord]) -> Message:
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            return client_error(f"diverged: {bad[0]} is {metrics[bad[0]]}", message)
        return Message(RecordDict({**arrays, METRICS: MetricRecord(dict(metrics))}), reply_to=message)


def with_proximal(learner: Learner, config: Mapping[str, Any]) -> Learner:
    """Return a learner with the proximal term that FedProx sets in its config.

    Raises:
        ValueError: If it is not a number of at least 0.
    """
    if PROXIMAL not in config:
        return learner
    mu = config[PROXIMAL]
    if isinstance(mu, bool) or not isinstance(mu, int | float) or not 0 <= mu < math.inf:
        raise ValueError(f"'{PROXIMAL}' = {mu!r} is not a number of at least 0")
    if mu == learner.workload.proximal_mu:
        return learner
    workload = replace(learner.workload, proximal_mu=float(mu))
    return type(learner)(workload, learner.family, learner.algorithm)
