"""Prototypical networks: classify by the nearest mean of embedded support examples."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.about import About
from fedmeta.errors import ConfigError, DataError
from fedmeta.learning.algorithm import Algorithm, Model, Tensors
from fedmeta.learning.inner import gradients, leaves
from fedmeta.tasks import MASK, Examples, TaskBatch, TaskSpec

PROTOTYPES = "prototypes"


class ProtoNet(Algorithm):
    """Prototypical networks: a meta-learned embedding, and a mean per class; no inner loop.

    Snell, Swersky, Zemel 2017, "Prototypical Networks for Few-shot Learning": prototypes by equation 1,
    class probabilities by a softmax over negative squared Euclidean distances, equation 2 and
    Algorithm 1. A task may have any number of ways at test. The state is the embedding's weights.

    Raises:
        ConfigError: If tasks are not classification with one label per example.
    """

    about = About(
        paper='Snell, Swersky, Zemel 2017, "Prototypical Networks for Few-shot Learning"',
        year=2017,
        family="metric",
        learns="an embedding",
        sends="the query gradient of the embedding's weights",
    )

    class Options(options.Options):
        """Prototypical networks have no options."""

    options: Options

    def __init__(
        self, options: Options, model: Model, spec: TaskSpec, transductive: bool = True
    ) -> None:
        super().__init__(options, model, spec, transductive)
        if not self.objective.labels or spec.vocabulary:
            raise ConfigError(
                "algorithm 'protonet' needs a classification task with one label per example"
            )

    @staticmethod
    @override
    def model_outputs(spec: TaskSpec) -> None:
        """Ask for an embedding without a head."""
        return

    def init(self, generator: torch.Generator) -> Tensors:
        """Draw the embedding's initial weights."""
        return self.model.init(generator)

    @torch.enable_grad()
    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Return the gradient of the query loss; without adaptation, before and after are the same."""
        params = leaves(state)
        embedded = self.objective.forward(self.model, params, tasks.support, once=True)
        # `adapt` infers the ways from the labels, but here a shape that depends on values could not be
        # compiled. So there is a prototype for each class of the spec, and absent ones are masked out.
        ways = self.spec.outputs
        members = memberships(tasks.support, ways)
        prototypes = class_means(embedded, members)
        absent = members.sum(1).unsqueeze(1) == 0
        support_x = self.statistics(self.context(tasks.support))
        query = self.objective.forward(self.model, params, tasks.query, support_x, once=True)
        logits = negative_distances(query, prototypes).masked_fill(absent, -math.inf)
        loss = self.objective.loss(logits, tasks.query)
        judged = loss, logits, tasks.query
        return gradients(loss, params), self.metrics(judged, judged)

    @override
    @torch.no_grad()
    def adapt(self, state: Tensors, support: Examples, steps: int) -> Tensors:
        """Return the prototypes ``[T, ways, D]``; ways are read off the labels, `steps` has no effect.

        Raises:
            DataError: If a task has no support example of one of the labels.
        """
        members = memberships(support, int(support["y"].max()) + 1)
        counts = members.sum(1)
        if not bool(counts.all()):
            task, label = (counts == 0).nonzero()[0].tolist()
            raise DataError(f"task {task} has no support example of label {label}")
        embedded = self.objective.forward(self.model, state, support)
        return {PROTOTYPES: class_means(embedded, members), **self.context(support)}

    @torch.no_grad()
    def predict(
        self, state: Tensors, adapted: Tensors, examples: Examples, transductive: bool | None = None
    ) -> Tensor:
        """Return negative squared distances ``[T, B, ways]`` as logits; see `Algorithm.predict`."""
        support_x = self.statistics(adapted, transductive)
        embedded = self.objective.forward(self.model, state, examples, support_x)
        return negative_distances(embedded, adapted[PROTOTYPES])


def memberships(support: Examples, ways: int) -> Tensor:
    """Return ``[T, S, ways]``, 1 where an example has the label and is not padding, else 0."""
    members = F.one_hot(support["y"], ways)
    return members * support[MASK].unsqueeze(-1) if MASK in support else members


def class_means(embedded: Tensor, members: Tensor) -> Tensor:
    """Average ``[T, S, D]`` by class to ``[T, ways, D]`` (Snell et al. 2017, equation 1).

    A class without support has its mean at 0.
    """
    weights = members.to(embedded.dtype).transpose(1, 2)
    return torch.bmm(weights, embedded) / weights.sum(2, keepdim=True).clamp(min=1)


def negative_distances(embedded: Tensor, prototypes: Tensor) -> Tensor:
    """Return ``-||z - c||^2`` for ``z [T, B, D]`` and ``c [T, ways, D]``, ``[T, B, ways]``."""
    return -(embedded.unsqueeze(2) - prototypes.unsqueeze(1)).square().sum(-1)
