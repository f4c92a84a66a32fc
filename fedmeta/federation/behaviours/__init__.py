"""Misbehaving clients, as Flower mods; one module per behaviour."""

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
    """State that behaviours share; data are loaded on the first training request.

    Args:
        workload: What honest clients do.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.mods: Mapping[int, Sequence[Mod]] = {}

    @cached_property
    def learner(self) -> Learner:
        """The honest clients' learner."""
        return Learner.build(self.workload)

    @cached_property
    def codec(self) -> Codec:
        """Reads and writes updates."""
        return Codec(self.learner.template)

    def rng(self, message: Message, context: Context) -> np.random.Generator:
        """Return the random generator of one client in one round."""
        _, round_ = read_request(message)
        client = cast(int, context.node_config[PARTITION])
        return stream(self.workload.seed, "behaviour", round_, client)

    def change(self, reply: Message, change: Callable[[Vector], Vector]) -> Message:
        """Replace the flat update ``[D]`` in a reply with ``change(update)``."""
        vector = np.empty(self.codec.size)
        self.codec.read_into(cast(ArrayRecord, reply.content[ARRAYS]), vector)
        reply.content[ARRAYS] = self.codec.encode(self.codec.split(change(vector)))
        return reply

    def ask(self, client: int, message: Message, context: Context) -> Message:
        """Answer a request as `client` would, with that client's own behaviour.

        The caller cannot see that client's memory, so it keeps its own copy in `context`, made from its
        own updates that counted.
        """
        app = build_client_app(self.learner, self.mods.get(client, ()))
        node = message.metadata.dst_node_id
        own = new_context(node, client, len(self.workload.population))
        put_versions(own.state, versions_in(context.state))
        reply = app(message, own)
        put_versions(context.state, versions_in(own.state))
        return reply


class Behaviour(ABC):
    """Base class of behaviours; any number of clients may share one.

    Args:
        options: Its own options.
        stage: State that all behaviours share.
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
        """The client whose update this one copies; None if it copies none."""
        return None


class OtherLearner(Behaviour):
    """Base class of behaviours that train normally, but with their own learner."""

    @abstractmethod
    def learner(self) -> Learner:
        """Return the learner of such a client."""

    @cached_property
    def _app(self) -> ClientApp:
        return build_client_app(self.learner())

    @override
    def reply(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        return self._app(message, context)


BEHAVIOURS: Registry[type[Behaviour]] = parts.BEHAVIOURS


def noise_like(vector: Vector, rng: np.random.Generator) -> Vector:
    """Return Gaussian noise with the Euclidean norm of `vector`."""
    noise = rng.standard_normal(vector.shape)
    length = float(np.sqrt(np.square(vector).sum()) / np.sqrt(np.square(noise).sum()))
    return noise * length


def mods_for(tables: Sequence[Mapping[str, Any]], workload: Workload) -> dict[int, list[Mod]]:
    """Build the Flower mods for ``[[behaviours]]`` tables, by partition id.

    A copier's victim gets an empty list of mods: a grid that stacks clients then computes it alone, as
    the copier does, so the copy is exact to the last bit.

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
