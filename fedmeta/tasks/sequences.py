"""Order of a task's examples, for methods that read them one after another."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedmeta.options import Options
from fedmeta.tasks.batch import Examples, TaskBatch
from fedmeta.tasks.seeding import random_order

SHOWN = "shown"
"""Name of the int64 tensor ``[T, B]`` of a sequence: the label that is shown with each example, which is
that of the example before."""
NO_LABEL = -1
"""What is shown with the first example."""


class OrderOptions(Options):
    """The order of a task's examples.

    Attributes:
        order: ``grouped``: by class; ``shuffled``: each of support and query at random, anew for every
            task; ``sequence``: all examples of a task at random, as one sequence in which each is shown
            with the label of the one before; there is no support set (Santoro et al. 2016, section 2).
    """

    order: Literal["grouped", "shuffled", "sequence"] = "grouped"

    @property
    def objective(self) -> str:
        """Name of the objective of classification tasks in this order."""
        return "sequence" if self.order == "sequence" else "classification"


def arrange(tasks: TaskBatch, options: OrderOptions, rng: np.random.Generator) -> TaskBatch:
    """Bring the examples of tasks, which are grouped by class, into the order of the options.

    Args:
        tasks: Tasks with a label ``y [T, B]`` for each example.
        options: The order.
        rng: The generator that drew the tasks.
    """
    if options.order == "grouped":
        return tasks
    if options.order == "shuffled":
        return TaskBatch(_shuffled(tasks.support, rng), _shuffled(tasks.query, rng))
    sequence = _shuffled(tasks.all_examples, rng)
    none = {key: value[:, :0] for key, value in sequence.items()}
    return TaskBatch(none, {**sequence, SHOWN: shown_labels(sequence["y"])})


def shown_labels(labels: Tensor) -> Tensor:
    """Return what is shown with each example of sequences with ``labels [T, L]``."""
    return torch.cat([torch.full_like(labels[:, :1], NO_LABEL), labels[:, :-1]], dim=1)


def _shuffled(examples: Examples, rng: np.random.Generator) -> Examples:
    shape = next(iter(examples.values())).shape[:2]
    order = torch.from_numpy(random_order(rng.random(shape, dtype=np.float32)))
    tasks = torch.arange(shape[0]).unsqueeze(1)
    return {key: value[tasks, order] for key, value in examples.items()}
