"""Small federations, and clients that misbehave."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedmeta.federation import (
    Federation,
    Learner,
    MetaStrategy,
    Plan,
    RoundRecord,
    Snapshot,
    VectorGrid,
    Workload,
)
from fedmeta.federation.engines.vector.jobs import InProcess
from fedmeta.federation.flower import as_server
from fedmeta.learning import AlgorithmSetup, Tensors
from fedmeta.learning.device import one_thread
from fedmeta.options import Options
from fedmeta.tasks import Population, TaskBatch, TaskSpec
from fedmeta.tasks.families.sinusoid import Sinusoid
from fedmeta.training import Observer, TrainingSetup, run_rounds
from fedmeta.training.ways.federated import Federated

SINUSOID = Workload(
    task="sinusoid",
    data={"shots": 5, "queries": 5},
    population=Population(12, 2, 3),
    setup=AlgorithmSetup("maml", {"inner_lr": 0.01}, "mlp", {"hidden": [8, 8]}),
    seed=7,
    evaluation_tasks=6,
    evaluation_steps=(0, 1, 3),
)
PLAN = Plan(rounds=4, cohort=6)


class NoOptions(Options):
    pass


class OddClients:
    """Lines to regress, where some clients' data fails in its own way; the client id says which."""

    Options: ClassVar[type[Options]] = NoOptions
    RAISES, LONGER, BAD_INPUT = 3, 4, 5

    def __init__(self, options: NoOptions, population: Population, seed: int) -> None:
        self.population = population
        self.spec = TaskSpec("regression", (1,), 1)

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        if client == self.RAISES:
            raise OSError("private disk is broken")
        points = 7 if client == self.LONGER else 5
        width = 2 if client == self.BAD_INPUT else 1
        x = torch.from_numpy(rng.random((count, 2 * points, width), dtype=np.float32))
        y = x.sum(-1, keepdim=True)
        return TaskBatch(x[:, :points], y[:, :points], x[:, points:], y[:, points:])


class Fragile(Sinusoid):
    """Sinusoids, but one client draws tasks that no model can take."""

    BROKEN = 4

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        tasks = super().sample(client, count, rng)
        return (
            replace(tasks, support=dict(tasks.support, y=tasks.support_y[:, :1, :0]))
            if client == self.BROKEN
            else tasks
        )


class Offline(Sinusoid):
    """Sinusoids whose clients' data are all missing."""

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        raise OSError("no disk")


class Asleep(Sinusoid):
    """Sinusoids, but one client takes an hour to draw its tasks."""

    CLIENT = 4

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        if client == self.CLIENT:
            time.sleep(3600)
        return super().sample(client, count, rng)


class Slow(Sinusoid):
    """Sinusoids, but a client takes a second to draw its tasks."""

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        time.sleep(1.0)
        return super().sample(client, count, rng)


class NoisyImages:
    """Three-way one-shot tasks over random 16 by 16 images, each class around a mean of its own."""

    Options: ClassVar[type[Options]] = NoOptions

    def __init__(self, options: NoOptions, population: Population, seed: int) -> None:
        self.population = population
        self.spec = TaskSpec("classification", (1, 16, 16), 3)

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        means = rng.standard_normal((count, 3, 1, 16, 16), dtype=np.float32)
        noise = rng.standard_normal((2, count, 3, 1, 16, 16), dtype=np.float32)
        support, query = (torch.from_numpy(means + 0.5 * part) for part in noise)
        labels = torch.arange(3).expand(count, 3)
        return TaskBatch(support, labels, query, labels)


def algorithm(name: str, options: Mapping[str, Any] | None = None, **changes: Any) -> Workload:
    """The sinusoid workload with another algorithm."""
    setup = replace(SINUSOID.setup, algorithm=name, learner=dict(options or {}))
    return replace(SINUSOID, setup=setup, **changes)


class Unreliable(VectorGrid):
    """A grid that loses, repeats or reorders replies, as a network does."""

    change: Callable[[list[Message]], list[Message]] | None = None

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        replies = super().send_and_receive(messages, timeout=timeout)
        return replies if self.change is None else self.change(list(replies))


def run_on_grid(
    workload: Workload,
    plan: Plan,
    change: Callable[[list[Message]], list[Message]] | None = None,
    mods: Mapping[int, Sequence[Mod]] | None = None,
) -> tuple[Snapshot, list[RoundRecord]]:
    """Run in this process on a grid whose replies go through `change`."""
    records: list[RoundRecord] = []
    with one_thread(), as_server():
        learner = Learner.build(workload)
        grid = Unreliable(learner, InProcess(learner), mods)
        grid.change = change
        end = train(Federation(learner, grid), plan, lambda record, _: records.append(record))
        return end, records


def train(
    federation: Federation,
    plan: Plan,
    observer: Observer = lambda *_: None,
    start: Snapshot | None = None,
) -> Snapshot:
    """Train federated on whatever grid there is."""
    return run_rounds(Federated(TrainingSetup(federation, plan, start)), observer)


def without(client: int) -> Callable[[list[Message]], list[Message]]:
    """Lose all replies of one client."""
    return lambda replies: [r for r in replies if r.metadata.src_node_id != client + 2]


def train_requests(grid: VectorGrid, strategy: MetaStrategy, round_: int) -> list[Message]:
    strategy.connect(grid)
    return list(strategy.configure_train(round_, strategy.arrays, ConfigRecord(), grid))


def reply_mod(spoil: Callable[[RecordDict], None]) -> Mod:
    """A client that does its work and then changes its reply."""

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        reply = call_next(message, context)
        spoil(reply.content)
        return reply

    return mod


def assert_same(one: Tensors, other: Tensors) -> None:
    """Equal keys and equal bits."""
    assert list(one) == list(other)
    for key, value in one.items():
        assert value.numpy().tobytes() == other[key].numpy().tobytes(), key


def flat(record: Any) -> Iterator[bytes]:
    """All bytes that a message's content carries."""
    for part in record.values():
        for value in part.values():
            yield value.data if hasattr(value, "data") else np.asarray(value).tobytes()
