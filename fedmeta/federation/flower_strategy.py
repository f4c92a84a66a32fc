"""Runs a user's Flower strategy instead of fedmeta's aggregation and server step, after the gate."""

import random
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    ConfigRecordValues,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray
from typing_extensions import override

from fedmeta.errors import ConfigError, RunError, UsageError
from fedmeta.federation.aggregation import AggregationOptions
from fedmeta.federation.client import ARRAYS, CONFIG, METRICS, ROUND
from fedmeta.federation.codec import Codec
from fedmeta.federation.failures import describe
from fedmeta.federation.flower import RunGrid, new_run, quiet
from fedmeta.federation.flower_replies import (
    EXAMPLES,
    SERVER_ROUND,
    WrongStateError,
    read_arrays,
    to_record,
    to_state,
    weights_of,
)
from fedmeta.federation.flower_strategy_state import export, restore, why_not_resumable
from fedmeta.federation.gate import Update
from fedmeta.learning import Tensors
from fedmeta.registry import import_dotted

LOOKS = 4
"""How often a strategy may look for nodes before it is assumed to wait for more than there are."""


def build_strategy(options: AggregationOptions) -> Strategy:
    """Build the strategy at a dotted path: a class, or a function that returns one.

    Raises:
        ConfigError: If it cannot be imported, is not a strategy, or does not take the options.
    """
    where = f"aggregation.rule: '{options.rule}'"
    make = import_dotted(options.rule, "aggregation.rule")
    if not callable(make) or (isinstance(make, type) and not issubclass(make, Strategy)):
        raise ConfigError(f"{where} is not a Flower strategy, nor a function that returns one")
    try:
        with quiet():
            strategy = make(**options.options)
    except Exception as error:
        # A user's own code may fail in any way.
        raise ConfigError(f"{where} does not take aggregation.options: {describe(error)}") from None
    if not isinstance(strategy, Strategy):
        raise ConfigError(f"{where} returns {type(strategy).__name__}, not a Flower strategy")
    return strategy


def require_resumable(options: AggregationOptions) -> None:
    """Check that a strategy's state can go into a checkpoint.

    Raises:
        UsageError: If not, as a resumed run would differ from an uninterrupted one.
    """
    if not options.is_strategy:
        return
    if reason := why_not_resumable(build_strategy(options)):
        raise UsageError(f"a run with aggregation.rule = '{options.rule}' cannot be resumed: {reason}")


class StrategyAggregator:
    """Passes a round's admitted updates to a strategy as replies of its own clients.

    Args:
        strategy: The strategy.
        round_: The round.
        state: The state that was sent to the clients.
        codec: Codec of the state.
        lr: Step size of the clients' local steps.
    """

    def __init__(
        self, strategy: "UserStrategy", round_: int, state: Tensors, codec: Codec, lr: float
    ) -> None:
        self.strategy = strategy
        self.round = round_
        self.template = state
        self.codec = codec
        self.lr = lr
        self.state: Tensors | None = None
        """The state that the strategy returned; None if none."""
        wide = {key: value.numpy() for key, value in state.items()}
        self._state = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in wide.items()}
        self._replies: list[Message] = []

    def add(self, update: Update) -> None:
        """Add an update, as float64 weights so that no precision is lost."""
        own = {
            slot.key: update.vector[slot.start : slot.stop].reshape(slot.shape)
            for slot in self.codec.slots
        }
        arrays = to_record(weights_of(self._state, own, self.lr))
        metrics = MetricRecord({EXAMPLES: update.tasks, **update.metrics})
        content = RecordDict({ARRAYS: arrays, METRICS: metrics})
        self._replies.append(Message(content, update.client + 1, MessageType.TRAIN))

    def result(self) -> NDArray[np.float64]:
        """Return the strategy's step as a pseudo-gradient ``[D]``: the old state minus the new one.

        Raises:
            RunError: If the strategy fails, or does not return such a state.
        """
        self.state = self.strategy.aggregate(self.round, self._replies, self.template)
        moved = np.zeros(self.codec.size)
        for slot in self.codec.slots if self.state else ():
            assert self.state
            new = self.state[slot.key].numpy().astype(np.float64)
            moved[slot.start : slot.stop] = (self._state[slot.key] - new).reshape(-1)
        return moved


class UserStrategy:
    """A Flower strategy, called in the rounds of a run.

    It neither samples nor sends: its `configure_train` is called with the state, which it may keep, and
    returns config for the clients; its `aggregate_train` is called with the admitted replies.

    Args:
        options: Name and options of the strategy.
        cohort: Clients per round.

    Raises:
        ConfigError: As `build_strategy`.
    """

    def __init__(self, options: AggregationOptions, cohort: int) -> None:
        self.name = options.rule
        self.strategy = build_strategy(options)
        least = ("min_available_nodes", "min_train_nodes")
        self._nodes = max(cohort, *(int(getattr(self.strategy, name, 0)) for name in least))

    def configure(self, round_: int, arrays: ArrayRecord) -> dict[str, ConfigRecordValues]:
        """Return the config that the strategy sends to a round's clients, besides the round's number.

        Raises:
            RunError: If it fails.
        """
        before = random.getstate()
        try:
            with quiet():
                grid = _NoGrid(self._nodes)
                asked = list(self.strategy.configure_train(round_, arrays, ConfigRecord(), grid))
        except Exception as error:
            raise RunError(f"round {round_}: {self.name} failed: {describe(error)}") from None
        finally:
            # Flower samples with the global generator; its sample is not used, as we have our cohort.
            random.setstate(before)
        told = asked[0].content.get(CONFIG) if asked else None
        config = told if isinstance(told, ConfigRecord) else ConfigRecord()
        return {key: value for key, value in config.items() if key not in (SERVER_ROUND, ROUND)}

    def aggregate(self, round_: int, replies: Sequence[Message], template: Tensors) -> Tensors | None:
        """Return the state that the strategy computes from replies; None if it returns none.

        Raises:
            RunError: If it fails, or returns arrays of the wrong shape.
        """
        try:
            with quiet():
                arrays, _ = self.strategy.aggregate_train(round_, replies)
            return arrays if arrays is None else to_state(read_arrays(arrays, template), template)
        except WrongStateError as error:
            raise RunError(f"round {round_}: {self.name} returned a wrong state: {error}") from None
        except Exception as error:
            raise RunError(f"round {round_}: {self.name} failed: {describe(error)}") from None

    def export(self) -> Tensors:
        """Return the strategy's state as flat tensors, for a checkpoint, if it is known."""
        return export(self.strategy)

    def restore(self, flat: Mapping[str, torch.Tensor]) -> None:
        """Restore the state that `export` returned."""
        restore(self.strategy, flat)


class _NoGrid(RunGrid):
    """A grid with nodes to sample from, but no messages."""

    def __init__(self, nodes: int) -> None:
        super().__init__(new_run())
        self._nodes = nodes
        self._looks = 0

    @override
    def get_node_ids(self) -> Iterable[int]:
        self._looks += 1
        if self._looks > LOOKS:
            raise RuntimeError(f"it waits for more than the {self._nodes} nodes of a round")
        return range(1, self._nodes + 1)

    @override
    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise RuntimeError("configure_train may not send messages here")

    @override
    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise RuntimeError("configure_train may not wait for replies here")

    @override
    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise RuntimeError("configure_train may not send messages here")
