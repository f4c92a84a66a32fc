"""Times one meta-gradient of ours against the rivals'; shared by the MAML cases."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmeta.bench.rivals import Episode, installed, meta_gradient
from fedmeta.bench.timing import Timing, interleave
from fedmeta.learning import (
    Algorithm,
    LearnerSetup,
    Tensors,
    build_algorithm,
    expand_state,
)
from fedmeta.tasks import TaskBatch, TaskFamily, stream, torch_generator

Dtype = Literal["float32", "float64"]
OURS = "fedmeta"
RIVAL = "clone-and-loop"


@dataclass(frozen=True)
class Duel:
    """One meta-gradient, ready to be computed by either side.

    Attributes:
        algorithm: Our side.
        state: The initial weights of both.
        episode: The rival's side, with the tasks of both.
    """

    algorithm: Algorithm
    state: Tensors
    episode: Episode

    @property
    def tasks(self) -> TaskBatch:
        """The meta-batch."""
        return self.episode.tasks

    def ours(self) -> Tensors:
        """Return our meta-gradient, averaged over the tasks, by key of the state."""
        return stacked_meta_gradient(self.algorithm, self.state, self.tasks)

    def contenders(self) -> dict[str, Callable[[], object]]:
        """Return both sides, and the installed libraries, as functions to time."""
        others = {name: partial(function, self.episode) for name, function in installed().items()}
        return {OURS: self.ours, RIVAL: partial(meta_gradient, self.episode), **others}

    def time(self, runs: int) -> dict[str, Timing]:
        """Time all contenders in turns."""
        return interleave(self.contenders(), runs)


def make_duel(
    setup: LearnerSetup,
    family: TaskFamily,
    tasks: int,
    module: Callable[[Tensors], nn.Module],
    dtype: Dtype = "float32",
) -> Duel:
    """Draw weights and tasks from fixed seeds and hand the same to both sides.

    Args:
        setup: Our learner: MAML with its inner loop, and the network.
        family: Where the tasks come from.
        tasks: Size of the meta-batch.
        module: Builds the rival's network from our state.
        dtype: Of weights and tasks.
    """
    algorithm = build_algorithm(setup, family.spec)
    kind: torch.dtype = getattr(torch, dtype)
    drawn = family.sample(0, tasks, stream(0, "bench")).to(kind)
    state = {key: value.to(kind) for key, value in algorithm.init(torch_generator(0, "bench")).items()}
    loss = F.mse_loss if family.spec.kind == "regression" else F.cross_entropy
    episode = Episode(
        module(state),
        loss,
        float(setup.learner["inner_lr"]),
        int(setup.learner["inner_steps"]),
        drawn,
    )
    return Duel(algorithm, state, episode)


def stacked_meta_gradient(algorithm: Algorithm, state: Tensors, tasks: TaskBatch) -> Tensors:
    """Average the tasks' meta-gradients, in chunks of as many tasks as the grid would stack."""
    size = algorithm.model.chunk_tasks
    total: dict[str, Tensor] = {}
    for first in range(0, len(tasks), size):
        chunk = tasks[first : first + size]
        updates, _ = algorithm.task_updates(expand_state(state, len(chunk)), chunk)
        for key, value in updates.items():
            summed = value.sum(0)
            total[key] = total[key] + summed if key in total else summed
    return {key: value / len(tasks) for key, value in total.items()}
