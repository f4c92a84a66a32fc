"""Runs a user's Flower strategy instead of fedmeta's aggregation and server step, after the gate.

The strategy's state between rounds goes into checkpoints, where it can be known.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

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
from numpy.typing import ArrayLike, NDArray
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
from fedmeta.federation.gate import Update
from fedmeta.learning import Tensors
from fedmeta.registry import import_dotted

PREFIX = "strategy."
"""Prefix of a strategy's tensors in a checkpoint, which also holds the server optimizer's."""
MOST_WAITS = 4
"""How often a strategy may ask for the nodes before it is assumed to wait for more than there are."""


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
        """Return the strategy's state as flat tensors, for a checkpoint; nothing if it is unknown."""
        if isinstance(self.strategy, Remembering):
            kept = dict(self.strategy.state_dict())
        elif _not_plain(self.strategy):
            return {}
        else:
            kept = _memory(self.strategy)
        return {f"{PREFIX}{key}": torch.from_numpy(np.array(value)) for key, value in kept.items()}

    def restore(self, flat: Mapping[str, torch.Tensor]) -> None:
        """Restore the state that `export` returned."""
        kept = {key.removeprefix(PREFIX): value.numpy() for key, value in flat.items()}
        if isinstance(self.strategy, Remembering):
            self.strategy.load_state_dict(kept)
        else:
            _remember(self.strategy, kept)


class _NoGrid(RunGrid):
    """A grid with nodes to sample from, but no messages."""

    def __init__(self, nodes: int) -> None:
        super().__init__(new_run())
        self._nodes = nodes
        self._waits = 0

    @override
    def get_node_ids(self) -> Iterable[int]:
        self._waits += 1
        if self._waits > MOST_WAITS:
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


@runtime_checkable
class Remembering(Protocol):
    """A strategy that can save and load its state."""

    def state_dict(self) -> Mapping[str, ArrayLike]:
        """Return all state kept between rounds: arrays or numbers by name."""
        ...

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """Load what `state_dict` returned, as arrays."""
        ...


def why_not_resumable(strategy: Strategy) -> str | None:
    """Return why a strategy's state cannot go into a checkpoint; None if it can."""
    if isinstance(strategy, Remembering) or (unknown := _not_plain(strategy)) is None:
        return None
    return f"{unknown}; define state_dict(), which returns arrays by name, and load_state_dict()"


def _not_plain(strategy: Strategy) -> str | None:
    """Return why a strategy's state is unknown; None if it is one of Flower's own."""
    kind = type(strategy)
    if not kind.__module__.startswith("flwr."):
        return f"the state of {kind.__name__} is unknown"
    for name, value in vars(strategy).items():
        parts = list(value.values()) if isinstance(value, dict) else value
        plain = value is None or isinstance(value, str | int | float | ArrayRecord | np.ndarray)
        arrays = isinstance(parts, list) and all(isinstance(part, np.ndarray) for part in parts)
        if not (plain or arrays or callable(value)):
            return f"the state of its {name}, {type(value).__name__}, is unknown"
    return None


def _memory(strategy: Strategy) -> dict[str, Any]:
    """Return the arrays and numbers among a strategy's attributes, by ``form:attribute/place/key``."""
    kept: dict[str, Any] = {}
    for name, value in vars(strategy).items():
        form, parts = _parts(value)
        for place, (key, part) in enumerate(parts.items()):
            kept[f"{form}:{name}/{place}/{key}"] = part
    return kept


def _parts(value: object) -> tuple[str, dict[str, Any]]:
    """Return the form of an attribute's value and the arrays or numbers in it, in their order."""
    if isinstance(value, ArrayRecord):
        return "record", {key: array.numpy() for key, array in value.items()}
    if isinstance(value, dict):
        return "dict", value
    if isinstance(value, list):
        return "list", {str(place): part for place, part in enumerate(value)}
    if isinstance(value, np.ndarray):
        return "array", {"": value}
    if isinstance(value, bool | int | float):
        return "number", {"": value}
    return "", {}


def _remember(strategy: Strategy, kept: Mapping[str, NDArray[Any]]) -> None:
    """Set the attributes that `_memory` returned; a checkpoint may reorder them."""
    groups: dict[tuple[str, str], dict[int, tuple[str, NDArray[Any]]]] = {}
    try:
        for path, value in kept.items():
            head, place, key = path.split("/", 2)
            form, _, name = head.partition(":")
            if name not in vars(strategy) or callable(vars(strategy)[name]):
                raise ValueError
            groups.setdefault((form, name), {})[int(place)] = (key, value)
        for (form, name), placed in groups.items():
            parts = dict(placed[place] for place in sorted(placed))
            setattr(strategy, name, _FORMS[form](parts))
    except (LookupError, ValueError, TypeError, RuntimeError):
        raise UsageError("the checkpoint does not hold the state of this strategy") from None


_FORMS: dict[str, Callable[[dict[str, NDArray[Any]]], Any]] = {
    "record": to_record,
    "dict": dict,
    "list": lambda parts: list(parts.values()),
    "array": lambda parts: parts[""],
    "number": lambda parts: parts[""].item(),
}
