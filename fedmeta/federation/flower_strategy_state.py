"""Saves and restores what a Flower strategy keeps between rounds."""

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
"""Begins the names of a strategy's tensors in a checkpoint, beside those of the server's optimizer."""


@runtime_checkable
class Remembering(Protocol):
    """A strategy whose memory can go into a checkpoint."""

    def state_dict(self) -> Mapping[str, ArrayLike]:
        """Return all that it remembers from one round to the next: arrays or numbers by name."""
        ...

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """Take back, as arrays, what `state_dict` returned."""
        ...


def why_not_resumable(strategy: Strategy) -> str | None:
    """Return why a strategy's memory cannot go into a checkpoint; None if it can."""
    if isinstance(strategy, Remembering) or (unknown := _not_plain(strategy)) is None:
        return None
    return f"{unknown}; give it state_dict(), which returns arrays by name, and load_state_dict()"


def export(strategy: Strategy) -> Tensors:
    """Return a strategy's memory as flat tensors; nothing if nobody can tell what it is."""
    if isinstance(strategy, Remembering):
        kept = dict(strategy.state_dict())
    elif _not_plain(strategy):
        return {}
    else:
        kept = _memory(strategy)
    return {f"{PREFIX}{key}": torch.from_numpy(np.array(value)) for key, value in kept.items()}


def restore(strategy: Strategy, flat: Mapping[str, torch.Tensor]) -> None:
    """Give a strategy back what `export` returned."""
    kept = {key.removeprefix(PREFIX): value.numpy() for key, value in flat.items()}
    if isinstance(strategy, Remembering):
        strategy.load_state_dict(kept)
    else:
        _remember(strategy, kept)


def _not_plain(strategy: Strategy) -> str | None:
    """Return why nobody can tell what a strategy remembers; None if it is one of Flower's own."""
    kind = type(strategy)
    if not kind.__module__.startswith("flwr."):
        return f"{kind.__name__} does not say what it remembers"
    for name, value in vars(strategy).items():
        parts = list(value.values()) if isinstance(value, dict) else value
        plain = value is None or isinstance(value, str | int | float | ArrayRecord | np.ndarray)
        arrays = isinstance(parts, list) and all(isinstance(part, np.ndarray) for part in parts)
        if not (plain or arrays or callable(value)):
            return f"nobody can tell what its {name}, {type(value).__name__}, remembers"
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
    """Set the attributes that `_memory` returned; a checkpoint gives them in an order of its own."""
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
        raise UsageError("the checkpoint does not hold the memory of this strategy") from None


_FORMS: dict[str, Callable[[dict[str, NDArray[Any]]], Any]] = {
    "record": to_record,
    "dict": dict,
    "list": lambda parts: list(parts.values()),
    "array": lambda parts: parts[""],
    "number": lambda parts: parts[""].item(),
}
