"""Saves and restores a Flower strategy's state between rounds."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy
from numpy.typing import ArrayLike, NDArray

from fedmeta.errors import UsageError
from fedmeta.federation.flower_replies import to_record
from fedmeta.learning import Tensors

PREFIX = "strategy."
"""Prefix of a strategy's tensors in a checkpoint, which also holds the server optimizer's."""


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


def export(strategy: Strategy) -> Tensors:
    """Return a strategy's state as flat tensors; nothing if it is unknown."""
    if isinstance(strategy, Remembering):
        kept = dict(strategy.state_dict())
    elif _not_plain(strategy):
        return {}
    else:
        kept = _memory(strategy)
    return {f"{PREFIX}{key}": torch.from_numpy(np.array(value)) for key, value in kept.items()}


def restore(strategy: Strategy, flat: Mapping[str, torch.Tensor]) -> None:
    """Restore the state that `export` returned."""
    kept = {key.removeprefix(PREFIX): value.numpy() for key, value in flat.items()}
    if isinstance(strategy, Remembering):
        strategy.load_state_dict(kept)
    else:
        _remember(strategy, kept)


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
