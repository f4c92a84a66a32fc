"""Assigns behaviours to clients, as Flower mods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import Context, Message, MessageType
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedmeta.errors import ConfigError
from fedmeta.federation.behaviours.behaviour import BEHAVIOURS, Behaviour, Stage
from fedmeta.federation.workload import Workload
from fedmeta.options import Options, parse_options
from fedmeta.tasks import Population


class Part(Options):
    """What every ``[[behaviours]]`` table has beside its kind's own options.

    Attributes:
        kind: The behaviour: a name or a dotted path.
        clients: Partition ids of the training clients that behave so.
    """

    kind: str
    clients: list[int]


@dataclass(frozen=True)
class Casting:
    """Who behaves how.

    Attributes:
        part: The kind, and the clients.
        behaviour: Class of the behaviour.
        options: Its own options.
    """

    part: Part
    behaviour: type[Behaviour]
    options: Options

    @property
    def table(self) -> dict[str, Any]:
        """The config's table, with all defaults filled in."""
        return self.part.model_dump(mode="json") | self.options.model_dump(mode="json")


def read_behaviours(tables: Sequence[Mapping[str, Any]], population: Population) -> list[Casting]:
    """Read the ``[[behaviours]]`` tables of a config.

    Raises:
        ConfigError: For an unknown kind or option, for a client that does not train or has two
            parts, or that copies itself or another copier.
    """
    castings = [_read(table, f"behaviours.{place}") for place, table in enumerate(tables)]
    parts: dict[int, Casting] = {}
    for place, casting in enumerate(castings):
        for client in casting.part.clients:
            _check_trains(client, f"behaviours.{place}.clients", population)
            if client in parts:
                raise ConfigError(f"behaviours.{place}.clients: client {client} has a part already")
            parts[client] = casting
    for place, casting in enumerate(castings):
        for key in ("of", "owner"):
            if (other := getattr(casting.options, key, None)) is not None:
                _check_trains(other, f"behaviours.{place}.{key}", population)
        victim = getattr(casting.options, "of", None)
        if victim in parts and hasattr(parts[victim].options, "of"):
            raise ConfigError(f"behaviours.{place}.of: client {victim} is a copier itself")
    return castings


def _read(table: Mapping[str, Any], where: str) -> Casting:
    heads = Part.model_fields
    part = parse_options(Part, {key: v for key, v in table.items() if key in heads}, where)
    kind = BEHAVIOURS.get(part.kind)
    if not (isinstance(kind, type) and issubclass(kind, Behaviour)):
        raise ConfigError(f"{where}.kind: '{part.kind}' is no Behaviour")
    own = {key: value for key, value in table.items() if key not in heads}
    return Casting(part, kind, parse_options(kind.Options, own, where))


def _check_trains(client: int, where: str, population: Population) -> None:
    if not 0 <= client < population.train:
        raise ConfigError(f"{where}: client {client} is not one of the {population.train} that train")


def mods_for(tables: Sequence[Mapping[str, Any]], workload: Workload) -> dict[int, list[Mod]]:
    """Build the Flower mods by which clients behave as `tables` say, by partition id.

    A copier's victim gets a mod too, which changes nothing: a grid that stacks clients then computes it
    as the copier does, alone, so that the copy is one to the last bit.

    Raises:
        ConfigError: As `read_behaviours`.
    """
    stage = Stage(workload)
    mods: dict[int, list[Mod]] = {}
    for casting in read_behaviours(tables, workload.population):
        behaviour = casting.behaviour(casting.options, stage)
        mods |= {client: [_playing(behaviour)] for client in casting.part.clients}
        if behaviour.victim is not None:
            mods.setdefault(behaviour.victim, [])
    stage.mods = mods
    return mods


def _playing(behaviour: Behaviour) -> Mod:
    def play(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if message.metadata.message_type != MessageType.TRAIN:
            return call_next(message, context)
        return behaviour.reply(message, context, call_next)

    return play
