"""Base class of algorithms that read the examples of a task one after another."""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from fedmeta.learning.algorithm import Tensors
from fedmeta.learning.embedding import EmbeddingAlgorithm
from fedmeta.learning.inner import gradients, leaves
from fedmeta.tasks import Examples, TaskBatch
from fedmeta.tasks.sequences import SHOWN


class SequenceAlgorithm(EmbeddingAlgorithm):
    """An algorithm for tasks with a support set, and for those that are one sequence.

    In a sequence (``data.order = "sequence"``) each example is shown with the label of the one before,
    and is predicted from all of them; see `fedmeta.tasks.objectives.sequence`. A subclass defines `read`
    for it, and `condition` and `answer` for tasks with a support set.
    """

    reads_sequences = True
    any_ways = False

    @abstractmethod
    def read(self, own: Tensors, features: Tensor, shown: Tensor) -> Tensor:
        """Predict ``[T, L, outputs]`` from the examples up to each one.

        Args:
            own: The weights of `init_own`, ``[T, ...]`` each.
            features: Embedded examples ``[T, L, D]``.
            shown: The one-hot label of the example before, ``[T, L, outputs]``; zero where there is
                none.
        """

    @override
    @torch.enable_grad()
    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Return the gradient of the query loss, or of the loss over a whole sequence."""
        if SHOWN not in tasks.query:
            return super().task_updates(state, tasks)
        source = leaves(state)
        prediction = self._read(source, tasks.query, once=True)
        loss = self.objective.loss(prediction, tasks.query)
        judged = loss, prediction, tasks.query
        return gradients(loss, source), self.metrics(judged, judged)

    @override
    def adapt(self, state: Tensors, support: Examples, steps: int) -> Tensors:
        """Return what is known of the support set; nothing where tasks are sequences."""
        return super().adapt(state, support, steps) if self.objective.has_support else {}

    @override
    @torch.no_grad()
    def predict(
        self, state: Tensors, adapted: Tensors, examples: Examples, transductive: bool | None = None
    ) -> Tensor:
        """Predict each example of a sequence, or from the support set; see `Algorithm.predict`."""
        if SHOWN in examples:
            return self._read(state, examples)
        return super().predict(state, adapted, examples, transductive)

    def _read(self, state: Tensors, examples: Examples, *, once: bool = False) -> Tensor:
        _, own = self.split(state)
        features = self._features(state, examples, once=once)
        return self.read(own, features, self._shown(examples, features))

    def _features(self, state: Tensors, examples: Examples, *, once: bool = False) -> Tensor:
        params, _ = self.split(state)
        return self.objective.forward(self.model, params, examples, once=once)

    def _shown(self, examples: Examples, features: Tensor) -> Tensor:
        """Return the one-hot labels that the examples of a sequence are shown with."""
        # Without its first column, no label is all zeros.
        shown = F.one_hot(examples[SHOWN] + 1, self.spec.outputs + 1)[..., 1:]
        return shown.to(features.dtype)
