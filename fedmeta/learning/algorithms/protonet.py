"""Prototypical networks: classify by the nearest mean of embedded support examples."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.errors import ConfigError, DataError
from fedmeta.learning.algorithm import Algorithm, Model, Tensors
from fedmeta.learning.inner import (
    SUPPORT_X,
    adaptation_metrics,
    forward_query,
    gradients,
    leaves,
    per_task_loss,
)
from fedmeta.tasks import TaskBatch, TaskSpec

PROTOTYPES = "prototypes"


class ProtoNet(Algorithm):
    """Prototypical networks: a meta-learned embedding, and a mean per class; no inner loop.

    Snell, Swersky, Zemel 2017, "Prototypical Networks for Few-shot Learning": prototypes by equation 1,
    class probabilities by a softmax over negative squared Euclidean distances, equation 2 and
    Algorithm 1. A task may have any number of ways at test. The state is the embedding's weights.

    Raises:
        ConfigError: If tasks are no classification with one label per example.
    """

    class Options(options.Options):
        """Prototypical networks have no options."""

    options: Options

    def __init__(
        self, options: Options, model: Model, spec: TaskSpec, transductive: bool = True
    ) -> None:
        super().__init__(options, model, spec, transductive)
        if spec.kind != "classification" or spec.vocabulary:
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
        """Return the gradient of the query loss; nothing is adapted: before and after are the same."""
        params = leaves(state)
        embedded = self.model.forward(params, tasks.support_x)
        # Test may have more ways than these tasks. Reading the ways off the labels, as `adapt` does,
        # would make a shape depend on values, which cannot be compiled: absent classes get no chance.
        ways = self.spec.outputs
        prototypes = class_means(embedded, tasks.support_y, ways)
        absent = F.one_hot(tasks.support_y, ways).sum(1, keepdim=True) == 0
        support = None if self.transductive else tasks.support_x
        query = forward_query(self.model, params, tasks.query_x, support)
        logits = negative_distances(query, prototypes).masked_fill(absent, -math.inf)
        loss = per_task_loss(self.spec, logits, tasks.query_y)
        after = (logits, tasks.query_y)
        return gradients(loss, params), adaptation_metrics(self.spec, after, after, (loss, loss))

    @override
    @torch.no_grad()
    def adapt(self, state: Tensors, support_x: Tensor, support_y: Tensor, steps: int) -> Tensors:
        """Return the prototypes ``[T, ways, D]``; ways are read off the labels, `steps` has no effect.

        Raises:
            DataError: If a task has no support example of one of the labels.
        """
        ways = int(support_y.max()) + 1
        counts = F.one_hot(support_y, ways).sum(1)
        if not bool(counts.all()):
            task, label = (counts == 0).nonzero()[0].tolist()
            raise DataError(f"task {task} has no support example of label {label}")
        prototypes = class_means(self.model.forward(state, support_x), support_y, ways)
        context = {SUPPORT_X: support_x} if self.model.batch_norm else {}
        return {PROTOTYPES: prototypes, **context}

    @torch.no_grad()
    def predict(
        self, state: Tensors, adapted: Tensors, x: Tensor, transductive: bool | None = None
    ) -> Tensor:
        """Return negative squared distances ``[T, B, ways]`` as logits; see `Algorithm.predict`."""
        transductive = self.transductive if transductive is None else transductive
        support = None if transductive else adapted.get(SUPPORT_X)
        return negative_distances(forward_query(self.model, state, x, support), adapted[PROTOTYPES])


def class_means(embedded: Tensor, labels: Tensor, ways: int) -> Tensor:
    """Average ``[T, S, D]`` by labels ``[T, S]`` to ``[T, ways, D]`` (Snell et al. 2017, equation 1).

    A class without support has its mean at 0.
    """
    members = F.one_hot(labels, ways).to(embedded.dtype).transpose(1, 2)
    return torch.bmm(members, embedded) / members.sum(2, keepdim=True).clamp(min=1)


def negative_distances(embedded: Tensor, prototypes: Tensor) -> Tensor:
    """Return ``-||z - c||^2`` for ``z [T, B, D]`` and ``c [T, ways, D]``, ``[T, B, ways]``."""
    return -(embedded.unsqueeze(2) - prototypes.unsqueeze(1)).square().sum(-1)
