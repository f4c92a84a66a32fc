"""Base class of client behaviours."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable, Mod
from numpy.typing import NDArray
from typing_extensions import override

from fedmeta.federation.client import ARRAYS, PARTITION, build_client_app, read_request
from fedmeta.federation.codec import Codec
from fedmeta.federation.flower import new_context
from fedmeta.federation.learner import Learner
from fedmeta.federation.workload import Workload
from fedmeta.options import Options
from fedmeta.registry import Registry
from fedmeta.tasks import stream

Vector = NDArray[np.float64]


class Stage:
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
        return self.workload.build()

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

    def ask(self, client: int, message: Message) -> Message:
        """Answer a request as `client` would, whatever part it plays itself."""
        app = build_client_app(self.learner, self.mods.get(client, ()))
        node = message.metadata.dst_node_id
        return app(message, new_context(node, client, len(self.workload.population)))


class Behaviour(ABC):
    """One way to cheat, or to be poor; it may be played by any number of clients.

    Args:
        options: Its own options.
        stage: What it works with.
    """

    Options: ClassVar[type[Options]]

    def __init__(self, options: Any, stage: Stage) -> None:
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


BEHAVIOURS: Registry[type[Behaviour]] = Registry("behaviour")


def noise_like(vector: Vector, rng: np.random.Generator) -> Vector:
    """Return Gaussian noise as long as `vector`, by Euclidean norm."""
    noise = rng.standard_normal(vector.shape)
    length = float(np.sqrt(np.square(vector).sum()) / np.sqrt(np.square(noise).sum()))
    return noise * length
