"""Reads the keys of a config that name parts: behaviours, postprocessors and mods."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from fedmeta.errors import ConfigError, about
from fedmeta.options import Options, parse_options
from fedmeta.parts import BEHAVIOURS, POSTPROCESSORS
from fedmeta.registry import Registry, import_dotted

if TYPE_CHECKING:
    from flwr.clientapp.typing import Mod

    from fedmeta.tasks.population import Population

Stage = Literal["task", "client", "server"]
STAGES: tuple[Stage, ...] = ("task", "client", "server")


class PartHead(Options):
    """Keys common to all tables that name a part.

    Attributes:
        kind: The part: a name or a dotted path.
    """

    kind: str


class BehaviourHead(PartHead):
    """Keys common to all ``[[behaviours]]`` tables.

    Attributes:
        kind: The behaviour: a name or a dotted path.
        clients: Partition ids of the training clients with this behaviour.
    """

    clients: list[int]


class PostprocessorHead(PartHead):
    """Keys common to all ``[[postprocessors]]`` tables.

    Attributes:
        kind: The postprocessor: a name or a dotted path.
        stage: Which updates it changes: that of each ``task``, the one that a ``client`` sends, or the
            aggregated one of the ``server``.
    """

    stage: Stage = "client"


HeadT = TypeVar("HeadT", bound=PartHead)


@dataclass(frozen=True)
class PartTable(Generic[HeadT]):
    """A table that names a part.

    Attributes:
        head: The keys common to all tables of its list.
        options: The part's own options.
    """

    head: HeadT
    options: Options

    @property
    def table(self) -> dict[str, Any]:
        """The config's table, with all defaults filled in."""
        return self.head.model_dump(mode="json") | self.options.model_dump(mode="json")


def read_postprocessors(tables: Sequence[Mapping[str, Any]]) -> list[PartTable[PostprocessorHead]]:
    """Read the ``[[postprocessors]]`` tables of a config.

    Raises:
        ConfigError: For an unknown kind, stage or option.
    """
    base = "fedmeta.federation.postprocessors:Postprocessor"
    return [
        _read(table, f"postprocessors.{place}", PostprocessorHead, (POSTPROCESSORS, base))
        for place, table in enumerate(tables)
    ]


def read_behaviours(
    tables: Sequence[Mapping[str, Any]], population: "Population"
) -> list[PartTable[BehaviourHead]]:
    """Read the ``[[behaviours]]`` tables of a config.

    Raises:
        ConfigError: For an unknown kind or option, or a client that does not train, has two behaviours,
            or copies itself or another copier.
    """
    base = "fedmeta.federation.behaviours:Behaviour"
    assignments = [
        _read(table, f"behaviours.{place}", BehaviourHead, (BEHAVIOURS, base))
        for place, table in enumerate(tables)
    ]
    parts: dict[int, PartTable[BehaviourHead]] = {}
    for place, assignment in enumerate(assignments):
        for client in assignment.head.clients:
            _check_trains(client, f"behaviours.{place}.clients", population)
            if client in parts:
                where = f"behaviours.{place}.clients"
                raise ConfigError(f"{where}: client {client} already has a behaviour", where)
            parts[client] = assignment
    for place, assignment in enumerate(assignments):
        for key in ("of", "owner"):
            if (other := getattr(assignment.options, key, None)) is not None:
                _check_trains(other, f"behaviours.{place}.{key}", population)
        victim = getattr(assignment.options, "of", None)
        if victim in parts and hasattr(parts[victim].options, "of"):
            where = f"behaviours.{place}.of"
            raise ConfigError(f"{where}: client {victim} is a copier itself", where)
    return assignments


def load_mods(paths: Sequence[str]) -> "list[Mod]":
    """Import Flower mods by their dotted paths.

    Raises:
        ConfigError: If one cannot be imported, or is not a mod.
    """
    return [_load_mod(path, f"mods.{place}") for place, path in enumerate(paths)]


def _load_mod(path: str, where: str) -> "Mod":
    if "." not in path and ":" not in path:
        raise ConfigError(f"{where}: '{path}' is not a dotted path, such as 'my_module:my_mod'", where)
    with about(where):
        mod: Mod = import_dotted(path, where)
    try:
        if inspect.isclass(mod):
            raise TypeError
        inspect.signature(mod).bind(None, None, None)
    except (TypeError, ValueError):
        raise ConfigError(
            f"{where}: '{path}' is not a Flower mod, a function of (message, context, call_next)", where
        ) from None
    return mod


def _check_trains(client: int, where: str, population: "Population") -> None:
    if not 0 <= client < population.train:
        count = population.train
        raise ConfigError(f"{where}: client {client} is not one of the {count} that train", where)


def _read(
    table: Mapping[str, Any], where: str, head: type[HeadT], kinds: tuple[Registry[Any], str]
) -> PartTable[HeadT]:
    """Read a table that names a part by its ``kind``.

    Args:
        table: As read from TOML.
        where: Its path in the config, such as ``behaviours.0``; used in messages.
        head: Options class of the keys common to all such tables.
        kinds: The registry of the parts, and the dotted path of the base class of users' own parts.
    """
    keys = head.model_fields
    shared = parse_options(head, {key: v for key, v in table.items() if key in keys}, where)
    registry, base = kinds
    with about(f"{where}.kind"):
        if shared.kind not in registry:
            _require_part(registry.get(shared.kind), f"{where}.kind: '{shared.kind}'", base)
        options = registry.options(shared.kind) or Options
    given = {key: value for key, value in table.items() if key not in keys}
    own = parse_options(options, given, where, f"{registry.what} '{shared.kind}'")
    return PartTable(shared, own)


def _require_part(kind: object, what: str, base: str) -> None:
    module, _, name = base.partition(":")
    if not (isinstance(kind, type) and issubclass(kind, getattr(import_module(module), name))):
        raise ConfigError(f"{what} is not a {name}")
