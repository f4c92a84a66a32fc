"""Base class of algorithms that predict from embedded examples, without an inner loop."""

import math
from abc import abstractmethod
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from fedmeta.errors import ConfigError, DataError
from fedmeta.learning.algorithm import SUPPORT_X, Algorithm, Model, Tensors
from fedmeta.learning.inner import gradients, leaves
from fedmeta.options import Options
from fedmeta.registry import name_of
from fedmeta.tasks import MASK, Examples, TaskBatch, TaskSpec


class Support(NamedTuple):
    """Embedded support sets.

    Attributes:
        features: ``[T, S, D]``; arbitrary where padded.
        targets: One-hot labels ``[T, S, ways]`` or the values of a regression ``[T, S, outputs]``, in
            the dtype of the features; zero where padded.
        mask: ``[T, S]``, False where padded; None: nothing is.
    """

    features: Tensor
    targets: Tensor
    mask: Tensor | None

    @property
    def valid(self) -> Tensor:
        """The mask, also where nothing is padded."""
        if self.mask is not None:
            return self.mask
        shape = self.features.shape[:2]
        return torch.ones(shape, dtype=torch.bool, device=self.features.device)


class EmbeddingAlgorithm(Algorithm):
    """An algorithm that embeds support and query, and predicts each query example from the support.

    A subclass defines `condition`, which reads the support set, and `answer`, which predicts. Both are
    differentiated once, for the embedding's weights and the algorithm's own (see `init_own`).
    Without an inner loop, steps have no effect, and the metrics before adaptation are those after it.

    Raises:
        ConfigError: If the tasks are not classification with one label per example, or regression for a
            subclass that takes it.
    """

    regression: ClassVar[bool] = False
    """Whether the algorithm takes regression tasks too."""
    any_ways: ClassVar[bool] = True
    """Whether a task may have any number of ways at test; if not, at most ``spec.outputs``."""

    def __init__(
        self, options: Options, model: Model, spec: TaskSpec, transductive: bool = True
    ) -> None:
        super().__init__(options, model, spec, transductive)
        classifies = self.objective.labels and not spec.vocabulary
        if not (classifies or (self.regression and self.objective.numbers)):
            needed = "a classification task with one label per example"
            raise ConfigError(
                f"algorithm '{name_of(type(self))}' needs {needed}"
                + (" or a regression" if self.regression else "")
            )
        self._own = tuple(self.init_own(torch.Generator()))

    @staticmethod
    @override
    def model_outputs(spec: TaskSpec) -> None:
        """Ask for an embedding without a head."""
        return

    @property
    @override
    def max_ways(self) -> int | None:
        """Largest number of classes of a task at test; None: no limit."""
        return None if self.any_ways else self.spec.outputs

    def init_own(self, generator: torch.Generator) -> Tensors:  # noqa: ARG002 (for those with weights)
        """Draw the weights beside the embedding's; none by default."""
        return {}

    @abstractmethod
    def condition(self, own: Tensors, support: Support) -> Tensors:
        """Return what `answer` needs to know of the support set, ``[T, ...]`` each."""

    @abstractmethod
    def answer(self, own: Tensors, known: Tensors, features: Tensor) -> Tensor:
        """Predict ``[T, Q, ways or outputs]`` from the query features ``[T, Q, D]``.

        An example's prediction must not depend on the other query examples.

        Args:
            own: The weights of `init_own`, ``[T, ...]`` each.
            known: What `condition` returned.
            features: The embedded query.
        """

    def weigh(
        self,
        own: Tensors,  # noqa: ARG002 (for those that weigh examples)
        known: Tensors,  # noqa: ARG002
        support: Support,  # noqa: ARG002
        features: Tensor,  # noqa: ARG002
    ) -> Tensor | None:
        """Return how much each support example counts for each query example, ``[T, Q, S]``.

        None by default; see `Algorithm.support_weights`, and `condition` and `answer` for the arguments.
        """
        return None

    def training_loss(self, prediction: Tensor, query: Examples) -> Tensor:
        """Return the training loss ``[T]``: the objective's, unless overridden."""
        return self.objective.loss(prediction, query)

    def init(self, generator: torch.Generator) -> Tensors:
        """Draw the embedding's weights, then the algorithm's own.

        Raises:
            ConfigError: If both have a tensor of the same name.
        """
        embedding, own = self.model.init(generator), self.init_own(generator)
        if both := sorted(embedding.keys() & own.keys()):
            raise ConfigError(
                f"algorithm '{name_of(type(self))}' has its own '{both[0]}': rename the model's"
            )
        return {**embedding, **own}

    @torch.enable_grad()
    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Return the gradient of the query loss."""
        source = leaves(state)
        params, own = self.split(source)
        embedded = self.objective.forward(self.model, params, tasks.support, once=True)
        support = self._support(embedded, tasks.support, self.spec.outputs)
        known = self.condition(own, support)
        statistics = self.statistics(self.context(tasks.support))
        query = self.objective.forward(self.model, params, tasks.query, statistics, once=True)
        prediction = self.answer(own, known, query)
        if self.objective.labels and self.any_ways:
            # `adapt` infers the ways from the labels, but here a shape that depends on values could not
            # be compiled. So there is a column for each way of the spec, and absent ones are masked.
            absent = support.targets.detach().sum(1, keepdim=True) == 0
            prediction = prediction.masked_fill(absent, -math.inf)
        loss = self.training_loss(prediction, tasks.query)
        judged = self.objective.loss(prediction.detach(), tasks.query), prediction, tasks.query
        return gradients(loss, source), self.metrics(judged, judged)

    @override
    @torch.no_grad()
    def adapt(self, state: Tensors, support: Examples, steps: int) -> Tensors:
        """Return what predictions need to know of the support set; `steps` has no effect.

        Raises:
            DataError: If a task has no support example of one of the labels.
        """
        _, own = self.split(state)
        known = self.condition(own, self._embedded(state, support))
        return {**known, **self.context(support)}

    def _embedded(self, state: Tensors, support: Examples) -> Support:
        params, _ = self.split(state)
        ways = self.spec.outputs
        if self.objective.labels and self.any_ways:
            ways = int(support["y"].max()) + 1
            _require_all(memberships(support, ways).sum(1))
        return self._support(self.objective.forward(self.model, params, support), support, ways)

    @torch.no_grad()
    def predict(
        self, state: Tensors, adapted: Tensors, examples: Examples, transductive: bool | None = None
    ) -> Tensor:
        """Predict each example from what is known of the support set; see `Algorithm.predict`."""
        params, own = self.split(state)
        statistics = self.statistics(adapted, transductive)
        features = self.objective.forward(self.model, params, examples, statistics)
        known = {key: value for key, value in adapted.items() if key != SUPPORT_X}
        return self.answer(own, known, features)

    @override
    @torch.no_grad()
    def support_weights(
        self, state: Tensors, support: Examples, query: Examples, transductive: bool | None = None
    ) -> Tensor | None:
        """Return how much each support example counts in each prediction; see `weigh`."""
        params, own = self.split(state)
        embedded = self._embedded(state, support)
        statistics = self.statistics(self.context(support), transductive)
        features = self.objective.forward(self.model, params, query, statistics)
        return self.weigh(own, self.condition(own, embedded), embedded, features)

    def split(self, state: Tensors) -> tuple[Tensors, Tensors]:
        """Split a state into the embedding's weights and the algorithm's own."""
        own = {key: state[key] for key in self._own}
        return {key: value for key, value in state.items() if key not in own}, own

    def _support(self, features: Tensor, examples: Examples, ways: int) -> Support:
        mask = examples.get(MASK)
        if self.objective.labels:
            targets = memberships(examples, ways).to(features.dtype)
        else:
            targets = examples["y"] if mask is None else examples["y"] * mask.unsqueeze(-1)
        return Support(features, targets, mask)


def memberships(support: Examples, ways: int) -> Tensor:
    """Return ``[T, S, ways]``, 1 where an example has the label and is not padding, else 0."""
    members = F.one_hot(support["y"], ways)
    return members * support[MASK].unsqueeze(-1) if MASK in support else members


def share_out(chances: Tensor, scores: Tensor, support: Support) -> Tensor:
    """Share each class's probability out among its support examples, by a softmax of their scores.

    Args:
        chances: ``[T, Q, ways]``.
        scores: Of each support example for each query example, ``[T, Q, S]``.
        support: The support set.

    Returns:
        ``[T, Q, S]``. The shares of a class's examples sum to its probability.
    """
    members = support.targets.mT.unsqueeze(1) > 0
    within = scores.unsqueeze(2).masked_fill(~members, -math.inf).softmax(-1)
    # A class without support has no share to give.
    return (chances.unsqueeze(-1) * within).nan_to_num(0.0).sum(2)


def _require_all(counts: Tensor) -> None:
    """Refuse a label that no support example has; `counts` are examples by label ``[T, ways]``."""
    if not bool(counts.all()):
        task, label = (counts == 0).nonzero()[0].tolist()
        raise DataError(f"task {task} has no support example of label {label}")
