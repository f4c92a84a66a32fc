"""Postprocessors, which change updates per task, at the client or at the server."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from fedmeta import parts
from fedmeta.errors import ConfigError
from fedmeta.federation.part_tables import PostprocessorHead, Stage, read_postprocessors
from fedmeta.learning import Tensors
from fedmeta.options import Options
from fedmeta.registry import Registry


class Postprocessor(ABC):
    """Base class: changes a stack of pseudo-gradients, and may keep a state for each.

    The leading axis is over tasks, clients, or the one server; no row may depend on another. Tensors
    that an algorithm adds to the state directly (see `fedmeta.learning.KeyRule`) are not passed.

    Args:
        options: Its own options.
    """

    Options: ClassVar[type[Options]]

    def __init__(self, options: Any) -> None:
        self.options = options

    def init(self, template: Tensors) -> Tensors:  # noqa: ARG002 (for those that remember)
        """Return its initial state for a client or the server; empty if it keeps none.

        Args:
            template: One pseudo-gradient, without the axis.
        """
        return {}

    @abstractmethod
    def apply(self, updates: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """Return the changed updates and the new state.

        Args:
            updates: Pseudo-gradients, ``[N, ...]`` by key.
            state: The state of each, ``[N, ...]`` by key of `init`.
        """


POSTPROCESSORS: Registry[type[Postprocessor]] = parts.POSTPROCESSORS


@dataclass(frozen=True)
class Assigned:
    """A postprocessor and its place in the config.

    Attributes:
        head: Its kind and stage.
        part: The postprocessor.
        place: Its place in the config's list.
    """

    head: PostprocessorHead
    part: Postprocessor
    place: int


def _build(tables: Sequence[Mapping[str, Any]], stage: Stage) -> list[Assigned]:
    return [
        Assigned(one.head, POSTPROCESSORS.get(one.head.kind)(one.options), place)
        for place, one in enumerate(read_postprocessors(tables))
        if one.head.stage == stage
    ]


class Postprocessing:
    """The postprocessors of one stage, in the config's order.

    Args:
        tables: Those of the config, of all stages.
        stage: The stage.
        template: A state, or a pseudo-gradient of the same form.
        added: Tensors to leave unchanged.

    Attributes:
        init: Their initial states, without the leading axis.

    Raises:
        ConfigError: For a bad table, or a stateful postprocessor at stage ``task``.
    """

    def __init__(
        self,
        tables: Sequence[Mapping[str, Any]],
        stage: Stage,
        template: Tensors,
        added: frozenset[str] = frozenset(),
    ) -> None:
        self._parts = _build(tables, stage)
        self._keys = [
            key for key, value in template.items() if value.is_floating_point() and key not in added
        ]
        seen = {key: template[key] for key in self._keys}
        self.init: Tensors = {}
        for one in self._parts:
            mine = one.part.init(seen)
            self.init |= {f"{_prefix(one)}{key}": value for key, value in mine.items()}
        if self.init and stage == "task":
            raise ConfigError(
                f"postprocessors.{self._parts[0].place}: '{self._parts[0].head.kind}' keeps state "
                "between rounds, but a task has no next round: set stage = 'client' or 'server'"
            )

    def try_out(self, template: Tensors) -> None:
        """Test each of them on two made-up updates, twice.

        Args:
            template: A state.

        Raises:
            ConfigError: If one fails, or returns other names, shapes or dtypes.
        """
        updates = {
            key: torch.ones_like(template[key]).expand(2, *template[key].shape) for key in template
        }
        state = {key: torch.stack([value, value]) for key, value in self.init.items()}
        for _ in range(2):
            try:
                changed, after = self(updates, state)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                raise ConfigError(
                    f"postprocessors: {self._names} cannot be applied ({reason})"
                ) from None
            if _forms(changed) != _forms(updates) or _forms(after) != _forms(state):
                raise ConfigError(
                    f"postprocessors: {self._names} must return updates and state with the names, "
                    "shapes and dtypes that it was given"
                )
            state = after

    @property
    def _names(self) -> str:
        return ", ".join(f"'{one.head.kind}'" for one in self._parts)

    def __bool__(self) -> bool:
        return bool(self._parts)

    @torch.no_grad()
    def __call__(self, updates: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """Return the changed updates, ``[N, ...]``, and the new state, ``[N, ...]``."""
        changed, after = dict(updates), Tensors()
        for one in self._parts:
            start = _prefix(one)
            own = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
            new, own = one.part.apply({key: changed[key] for key in self._keys}, own)
            changed |= new
            after |= {start + key: value for key, value in own.items()}
        return changed, after


def _forms(tensors: Tensors) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {key: (value.shape, value.dtype) for key, value in tensors.items()}


def _prefix(one: Assigned) -> str:
    # No parameter, and nothing in an algorithm's client memory, has such a name.
    return f"@postprocessor.{one.place}."
