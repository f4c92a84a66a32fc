"""A user's Flower strategies and mods, as a config names them by dotted path."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.clientapp.typing import ClientAppCallable
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    FedAvg,
    Strategy,
)
from numpy.typing import NDArray

SEEN: list[list[int]] = []
"""The number of replies that `Momentum` was shown, each with its tasks."""
SHOWN: list[dict[str, Any]] = []
"""What `look` was shown."""


class Momentum(FedAvg):
    """Heavy-ball momentum on averaged weights; its state can be saved."""

    def __init__(self, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self._speed: dict[str, NDArray[Any]] = {}
        self._at: ArrayRecord | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._at = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        SEEN.append([next(iter(r.content.metric_records.values()))["num-examples"] for r in replies])  # type: ignore[misc]
        mean, metrics = super().aggregate_train(server_round, replies)
        assert mean is not None
        assert self._at is not None
        new = {}
        for key, array in mean.items():
            moved = array.numpy() - self._at[key].numpy()
            self._speed[key] = self.momentum * self._speed.get(key, np.zeros_like(moved)) + moved
            new[key] = Array(self._at[key].numpy() + self._speed[key])
        return ArrayRecord(new), metrics

    def state_dict(self) -> dict[str, NDArray[Any]]:
        return dict(self._speed)

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._speed = dict(state)


class Forgetful(Momentum):
    """The same, without a way to save its state."""

    state_dict = None  # type: ignore[assignment]
    load_state_dict = None  # type: ignore[assignment]


class Nothing(FedAvg):
    """Aggregates nothing in the second round."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        return (None, None) if server_round == 2 else super().aggregate_train(server_round, replies)


class Broken(FedAvg):
    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        raise KeyError("oops")


class Short(FedAvg):
    """Returns a model that lacks a tensor."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        arrays, metrics = super().aggregate_train(server_round, replies)
        assert arrays is not None
        arrays.pop(next(iter(arrays)))
        return arrays, metrics


def clipping(norm: float, clients: int) -> Strategy:
    """Central differential privacy with clipping at the clients, and no noise."""
    return DifferentialPrivacyClientSideFixedClipping(FedAvg(), 0.0, norm, clients)


def no_strategy() -> str:
    return "FedAvg"


def look(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Note what a mod sees, and change nothing."""
    reply = call_next(message, context)
    sent, back = message.content, reply.content
    SHOWN.append(
        {
            "config": dict(sent.config_records["config"]),
            "sent": {k: a.numpy().copy() for k, a in sent.array_records["arrays"].items()},
            "back": {k: a.numpy().copy() for k, a in back.array_records["arrays"].items()},
            "metrics": dict(back.metric_records["metrics"]),
        }
    )
    return reply


def halve(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Go half as far from the weights that were sent."""
    reply = call_next(message, context)
    sent, back = message.content.array_records["arrays"], reply.content.array_records["arrays"]
    for key, array in list(back.items()):
        back[key] = Array((sent[key].numpy() + array.numpy()) / 2)
    return reply


not_a_mod = 5
