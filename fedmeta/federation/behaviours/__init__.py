"""Clients that cheat, do harm or have poor data, as Flower mods; each behaviour is one module."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MessageType
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable, Mod
from numpy.typing import NDArray
from typing_extensions import override

from fedmeta import parts
from fedmeta.federation.client import ARRAYS, PARTITION, build_client_app, read_request
from fedmeta.federation.client_states import put_versions, versions_in
from fedmeta.federation.codec import Codec
from fedmeta.federation.flower import new_context
from fedmeta.federation.learner import Learner
from fedmeta.federation.part_tables import read_behaviours
from fedmeta.federation.workload import Workload
from fedmeta.options import Options
from fedmeta.registry import Registry
from fedmeta.tasks import stream

Vector = NDArray[np.float64]


class BehaviourContext:
    """What behaviours share; the data are loaded when the first of them is asked to train.

    Args:
        workload: What honest clients do.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.mods: Mapping[int, Sequence[Mod]] = {}

    @cached_property
    def learner(self) -> Learner:
        """The honest clients' side of the workload."""
        return Learner.build(self.workload)

    @cached_property
    def codec(self) -> Codec:
        """Reads and writes updates."""
        return Codec(self.learner.template)

    def rng(self, message: Message, context: Context) -> np.random.Generator:
        """Return the randomness of one client in one round."""
        _, round_ = read_request(message)
        client = cast(int, context.node_config[PARTITION])
        return stream(self.workload.seed, "behaviour", round_, client)

    def change(self, reply: Message, change: Callable[[Vector], Vector]) -> Message:
        """Replace the update in a reply by what `change` makes of it, flat ``[D]``."""
        vector = np.empty(self.codec.size)
        self.codec.read_into(cast(ArrayRecord, reply.content[ARRAYS]), vector)
        reply.content[ARRAYS] = self.codec.encode(self.codec.split(change(vector)))
        return reply

    def ask(self, client: int, message: Message, context: Context) -> Message:
        """Answer a request as `client` would, whatever part it plays itself.

        What the other one remembers nobody else knows: this one remembers it in its own context, from
        the updates of its own that counted.
        """
        app = build_client_app(self.learner, self.mods.get(client, ()))
        node = message.metadata.dst_node_id
        own = new_context(node, client, len(self.workload.population))
        put_versions(own.state, versions_in(context.state))
        reply = app(message, own)
        put_versions(context.state, versions_in(own.state))
        return reply


class Behaviour(ABC):
    """One way to cheat, or to be poor; it may be played by any number of clients.

    Args:
        options: Its own options.
        stage: What it works with.
    """

    Options: ClassVar[type[Options]]

    def __init__(self, options: Any, stage: BehaviourContext) -> None:
        self.options = options
        self.stage = stage

    @abstractmethod
    def reply(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Answer a training request; `call_next` answers it as an honest client does."""

    @property
    def victim(self) -> int | None:
        """The client whose update this one takes for its own; None: nobody's."""
        return None


class OtherLearner(Behaviour):
    """Trains as everybody does, but by a learner of its own; subclasses say how that differs."""

    @abstractmethod
    def learner(self) -> Learner:
        """Return the learner that such a client has."""

    @cached_property
    def _app(self) -> ClientApp:
        return build_client_app(self.learner())

    @override
    def reply(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        return self._app(message, context)


BEHAVIOURS: Registry[type[Behaviour]] = parts.BEHAVIOURS


def noise_like(vector: Vector, rng: np.random.Generator) -> Vector:
    """Return Gaussian noise as long as `vector`, by Euclidean norm."""
    noise = rng.standard_normal(vector.shape)
    length = float(np.sqrt(np.square(vector).sum()) / np.sqrt(np.square(noise).sum()))
    return noise * length


def mods_for(tables: Sequence[Mapping[str, Any]], workload: Workload) -> dict[int, list[Mod]]:
    """Build the Flower mods by which clients behave as `tables` say, by partition id.

    A copier's victim gets a mod too, which changes nothing: a grid that stacks clients then computes it
    as the copier does, alone, so that the copy is one to the last bit.

    Raises:
        ConfigError: As `read_behaviours`.
    """
    stage = BehaviourContext(workload)
    mods: dict[int, list[Mod]] = {}
    for assignment in read_behaviours(tables, workload.population):
        behaviour = BEHAVIOURS.get(assignment.head.kind)(assignment.options, stage)
        mods |= {client: [_playing(behaviour)] for client in assignment.head.clients}
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


__all__ = ["Behaviour"]
