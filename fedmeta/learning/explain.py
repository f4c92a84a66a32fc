"""Explains predictions by the support examples behind them."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedmeta.errors import DataError
from fedmeta.learning.algorithm import Algorithm, Tensors
from fedmeta.learning.device import chunk_tasks
from fedmeta.tasks import MASK, Examples

How = Literal["weights", "leave-one-out"]
QUERIES = 128
"""Queries predicted at once, where they do not depend on each other."""


@dataclass(frozen=True)
class SupportEvidence:
    """How much each support example speaks for the predictions.

    Attributes:
        how: ``weights`` of the method itself, see `Algorithm.support_weights`; or ``leave-one-out``, see
            `leave_one_out`.
        values: ``[Q, S]``.
    """

    how: How
    values: Tensor


def without_padding(examples: Examples) -> Examples:
    """Return one task's examples ``[1, B, ...]`` without padding."""
    if MASK not in examples:
        return examples
    kept = examples[MASK][0]
    return {key: value[:, kept] for key, value in examples.items() if key != MASK}


@dataclass(frozen=True)
class ExplainedTask:
    """A task, and how its queries are predicted.

    Attributes:
        algorithm: How to adapt.
        state: The meta-learned state, ``[1, ...]``.
        support: The support set, ``[1, S, ...]``, without padding.
        query: The examples to predict, ``[1, Q, ...]``, without padding; targets are not read.
        steps: Adaptation steps.
        transductive: See `Algorithm.predict`.
        ways: Outputs beyond these are not used; None: all are.
    """

    algorithm: Algorithm
    state: Tensors
    support: Examples
    query: Examples
    steps: int
    transductive: bool | None = None
    ways: int | None = None

    def chances(self, support: Examples) -> Tensor:
        """Return probabilities ``[T, Q, ways]`` after adapting to each support set ``[T, S, ...]``."""
        tasks = len(support["y"])
        state = {key: value.expand(tasks, *value.shape[1:]) for key, value in self.state.items()}
        adapted = self.algorithm.adapt(state, support, self.steps)
        transductive = self.algorithm.transductive if self.transductive is None else self.transductive
        count = self.algorithm.objective.inputs(self.query).shape[1]
        size = count if transductive and self.algorithm.model.batch_norm else QUERIES
        found = []
        with torch.no_grad():
            for first in range(0, count, size):
                part = {key: value[:, first : first + size] for key, value in self.query.items()}
                asked = {key: value.expand(tasks, *value.shape[1:]) for key, value in part.items()}
                said = self.algorithm.predict(state, adapted, asked, self.transductive)
                found.append(said[..., : self.ways].softmax(-1))
        return torch.cat(found, dim=1)


def support_evidence(task: ExplainedTask) -> SupportEvidence:
    """Return how much each support example of a task speaks for each prediction.

    Raises:
        DataError: If the method has no weights and no example can be left out, in one line.
    """
    if task.algorithm.objective.has_support:
        weights = task.algorithm.support_weights(task.state, task.support, task.query, task.transductive)
        if weights is not None:
            return SupportEvidence("weights", weights[0])
    return SupportEvidence("leave-one-out", leave_one_out(task))


def leave_one_out(task: ExplainedTask) -> Tensor:
    """Return by how much the probability of each predicted class falls without each support example.

    The method adapts anew to each support set that lacks one example (leave-one-out; Cook 1977,
    "Detection of Influential Observation in Linear Regression"). A value below 0 means that the example
    speaks against the prediction.

    Returns:
        ``[Q, S]``.

    Raises:
        DataError: If an example cannot be left out: it is the only one, or the only one of its class for
            a method that needs one of each class; or if tasks do not have one label per example.
    """
    algorithm, support = task.algorithm, task.support
    labels = algorithm.objective.labels and not algorithm.spec.vocabulary
    if not (labels and algorithm.objective.has_support):
        raise DataError("leaving an example out needs tasks with a support set and a label per example")
    size = support["y"].shape[1]
    if size < 2:
        raise DataError("the only support example cannot be left out")
    full = task.chances(support)[0]
    said = full.argmax(-1, keepdim=True)
    falls: list[Tensor] = []
    chunk = chunk_tasks(algorithm.model, full.device)
    for first in range(0, size, chunk):
        lacking = range(first, min(first + chunk, size))
        kept = torch.tensor([[i for i in range(size) if i != one] for one in lacking]).to(full.device)
        chances = _without(task, {key: value[0][kept] for key, value in support.items()}, full.shape)
        falls += [(full - one).gather(-1, said).squeeze(-1) for one in chances]
    return torch.stack(falls, dim=-1)


def _without(task: ExplainedTask, supports: Examples, shape: torch.Size) -> Tensor:
    try:
        chances = task.chances(supports)
    except DataError:
        chances = None
    if chances is None or chances.shape[1:] != shape:
        raise DataError("a support example that is the only one of its class cannot be left out")
    return chances
