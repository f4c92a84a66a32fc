"""Cheap tasks and models for benchmarks, and federations with rounds on demand."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import torch
from flwr.serverapp import Grid
from pydantic import Field, PositiveInt
from torch import Tensor

from fedmeta.errors import RunError
from fedmeta.federation import Learner, MetaStrategy, Plan, VectorGrid, Workload
from fedmeta.federation.engines.vector.pool import build_executor
from fedmeta.federation.flower import as_server
from fedmeta.learning import Algorithm, AlgorithmSetup, Model, Tensors
from fedmeta.learning.device import one_thread
from fedmeta.options import Options
from fedmeta.tasks import Examples, Population, TaskBatch, TaskSpec


class NoOptions(Options):
    """Options of a part without options."""


class NoiseOptions(Options):
    """Options of `Noise`."""

    ways: PositiveInt = 5
    shots: PositiveInt = 1
    queries: PositiveInt = 1
    size: PositiveInt = 28


class Noise:
    """Classification of noise images ``[size, size]``, for timing only."""

    Options: ClassVar[type[Options]] = NoiseOptions

    def __init__(self, options: NoiseOptions, population: Population, seed: int) -> None:  # noqa: ARG002
        self.options = options
        self.population = population
        self.spec = TaskSpec("classification", (options.size, options.size), options.ways)

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:  # noqa: ARG002
        """Draw `count` tasks, images ``[T, ways * shots or queries, size, size]``; labels balanced."""
        sides: list[Tensor] = []
        for images_per_class in (self.options.shots, self.options.queries):
            rows = self.options.ways * images_per_class
            shape = (count, rows, self.options.size, self.options.size)
            labels = torch.arange(self.options.ways).repeat(images_per_class)
            sides += [
                torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)),
                labels.expand(count, rows).contiguous(),
            ]
        return TaskBatch(*sides)


class NoDataOptions(Options):
    """Options of `NoData`: the input shape and the outputs of the model."""

    input_shape: tuple[PositiveInt, ...] = Field(strict=False)
    outputs: PositiveInt = 1


class NoData:
    """Regression tasks of a single number, the client's id, for any input shape."""

    Options: ClassVar[type[Options]] = NoDataOptions

    def __init__(self, options: NoDataOptions, population: Population, seed: int) -> None:  # noqa: ARG002
        self.population = population
        self.spec = TaskSpec("regression", options.input_shape, options.outputs)

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:  # noqa: ARG002
        """Return `count` tasks of one number each."""
        return TaskBatch(*(torch.full((count, 1, 1), float(client)) for _ in range(4)))


class FlatOptions(Options):
    """Options of `Flat`."""

    size: PositiveInt


class Flat(Model):
    """A model that is one long vector and computes nothing."""

    Options: ClassVar[type[Options]] = FlatOptions
    # As Conv4, which has about the same size.
    chunk_tasks = 8
    batch_norm = False

    def __init__(self, options: FlatOptions, spec: TaskSpec, outputs: int | None) -> None:
        self._size = options.size
        self.outputs = outputs or spec.outputs

    def init(self, generator: torch.Generator) -> Tensors:
        """Draw the vector."""
        return {"vector": torch.randn(self._size, generator=generator) * 0.01}

    def forward(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensor:  # noqa: ARG002
        """Compute zeros ``[T, B, outputs]``."""
        return x.new_zeros(*x.shape[:2], self.outputs)


class NoLearning(Algorithm):
    """Returns about a tenth of the model's weights as the update, without running the model.

    Updates of different clients differ slightly, as the gate refuses copies.
    """

    Options = NoOptions

    def init(self, generator: torch.Generator) -> Tensors:
        """Draw the model's weights."""
        return self.model.init(generator)

    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Return about a tenth of each task's state, and losses of zero."""
        zeros = torch.zeros(len(tasks))
        share = 0.1 * (1.0 + 1e-6 * tasks.support["x"].flatten())
        updates = {k: v * share.view(-1, *[1] * (v.dim() - 1)) for k, v in state.items()}
        return updates, {"loss": zeros, "loss_before": zeros}

    def adapt(self, state: Tensors, support: Examples, steps: int) -> Tensors:  # noqa: ARG002
        """Return the state unchanged."""
        return state

    def predict(
        self,
        state: Tensors,  # noqa: ARG002
        adapted: Tensors,  # noqa: ARG002
        examples: Examples,
        transductive: bool | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Predict zeros."""
        x = examples["x"]
        return x.new_zeros(*x.shape[:2], self.spec.outputs)


def small_workload(clients: int) -> Workload:
    """Return MAML on sinusoids: one task per client and round, an MLP of 1,761 numbers."""
    setup = AlgorithmSetup("maml", {"inner_lr": 0.01, "inner_steps": 1}, "mlp", {"hidden": [40, 40]})
    return Workload("sinusoid", {}, Population(clients), setup, seed=0)


@contextmanager
def federation(workload: Workload, plan: Plan, workers: int) -> Iterator["Rounds"]:
    """Yield rounds computed in this process, or in worker processes.

    Args:
        workload: The clients' work.
        plan: The server's plan.
        workers: Number of processes that compute; 1 means this process.
    """
    with one_thread(), as_server():
        learner = Learner.build(workload)
        with build_executor(learner, workers, plan.rounds) as executor:
            yield Rounds(learner, plan, VectorGrid(learner, executor))


class Rounds:
    """Whole rounds, one per call, on any grid: real messages, gate, aggregation, server step.

    Args:
        learner: Gives the shapes of states and replies.
        plan: The server's plan.
        grid: Grid of the clients.
    """

    def __init__(self, learner: Learner, plan: Plan, grid: Grid) -> None:
        self.plan = plan
        self.grid = grid
        self.tasks = plan.cohort * learner.workload.tasks_per_round
        self.strategy = MetaStrategy(learner, plan)
        self.strategy.connect(grid)
        self._numbers = itertools.count(1)

    @property
    def state(self) -> Tensors:
        """The current state."""
        return self.strategy.state

    def __call__(self) -> None:
        """Run the next round.

        Raises:
            RunError: If not every reply was admitted.
        """
        record = self.strategy.train(next(self._numbers), self.grid)
        if record.skipped or record.tasks != self.tasks:
            raise RunError(f"bench: not all of {self.plan.cohort} replies were admitted")
