"""A scikit-learn estimator on learned features, fitted to each task at test."""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from fedmeta.errors import ConfigError, DataError
from fedmeta.files import one_line
from fedmeta.learning.algorithm import Algorithm, Model, Tensors
from fedmeta.learning.estimators import read_estimator
from fedmeta.learning.head import find_head
from fedmeta.learning.local import KeyRule, LocalWork
from fedmeta.tasks import MASK, Examples, TaskBatch, TaskSpec

FEATURES, TARGETS = "features", "targets"
LEAST = 1e-6
"""A smaller probability counts as this one, so that a vote of 0 is not an infinite loss."""


class FittedHead(Algorithm):
    """Trains as another algorithm does; at test, an estimator is fitted to each support set's features.

    The features are the model's embedding, or the input of its last linear layer, with the meta-learned
    weights: there are no adaptation steps.

    Args:
        algorithm: The algorithm that trains.
        head: The estimator, see `read_estimator`.
        seed: Seed of estimators that draw random numbers.

    Raises:
        ConfigError: If `head` is not a classifier, or in regression a regressor; or the tasks or the
            model do not support one.
    """

    def __init__(self, algorithm: Algorithm, head: str, seed: int) -> None:
        from sklearn.base import is_classifier, is_regressor

        if not algorithm.objective.has_support:
            raise ConfigError(
                "a head is fitted to a support set, but a sequence has none: choose another data.order"
            )
        super().__init__(algorithm.options, algorithm.model, algorithm.spec, algorithm.transductive)
        self._algorithm = algorithm
        self.second_order = algorithm.second_order
        # Shadows the static method, as which layer is the head does not change.
        vars(self)["model_outputs"] = algorithm.model_outputs
        self._estimator = read_estimator(head, seed)
        self._name = one_line(head)
        labels = self.objective.labels and not self.spec.vocabulary
        if not (labels or self.objective.numbers):
            raise ConfigError("a head needs tasks with one label per example, or a regression")
        fits = is_classifier(self._estimator) if labels else is_regressor(self._estimator)
        if not fits:
            needed = "classifier" if labels else "regressor"
            raise ConfigError(f"head '{self._name}' is not a {needed}, as these tasks need")
        self._weights = tuple(self.model.init(torch.Generator()))
        self._identity = (
            {} if algorithm.model_outputs(self.spec) is None else identity_head(self.model, self.spec)
        )

    @override
    def init(self, generator: torch.Generator) -> Tensors:
        """Draw the initial state; see the algorithm."""
        return self._algorithm.init(generator)

    @override
    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Return per-task pseudo-gradients and metrics; see the algorithm."""
        return self._algorithm.task_updates(state, tasks)

    @override
    def init_client(self, client: int) -> Tensors:
        """Return a client's memory before its first round; see the algorithm."""
        return self._algorithm.init_client(client)

    @override
    def local_update(
        self, start: Tensors, client: Tensors, work: LocalWork
    ) -> tuple[Tensors, Tensors, Tensors]:
        """Do the local work of C clients, whose steps call `work`; see the algorithm."""
        return self._algorithm.local_update(start, client, work)

    @override
    def key_rule(self, key: str) -> KeyRule:
        """Return how the server treats updates of one tensor; see the algorithm."""
        return self._algorithm.key_rule(key)

    @override
    def learned_rates(self, state: Tensors) -> Tensors:
        """Return the inner learning rates of the training; see the algorithm."""
        return self._algorithm.learned_rates(state)

    @property
    @override
    def max_ways(self) -> None:
        """Any number of classes at test."""
        return

    @override
    @torch.no_grad()
    def adapt(self, state: Tensors, support: Examples, steps: int) -> Tensors:
        """Return the support set's features and targets; `steps` has no effect."""
        features = self._features(state, support, None)
        mask = {MASK: support[MASK]} if MASK in support else {}
        return {FEATURES: features, TARGETS: support["y"], **mask, **self.context(support)}

    @override
    @torch.no_grad()
    def predict(
        self, state: Tensors, adapted: Tensors, examples: Examples, transductive: bool | None = None
    ) -> Tensor:
        """Fit the estimator to each task's support set and return its logits or values.

        Raises:
            DataError: If it cannot be fitted.
        """
        asked = self._features(state, examples, self.statistics(adapted, transductive))
        found = [self._task(adapted, asked, task) for task in range(len(asked))]
        return torch.from_numpy(np.stack(found)).to(asked)

    def _features(self, state: Tensors, examples: Examples, support_x: Tensor | None) -> Tensor:
        params = {key: state[key] for key in self._weights}
        for key, value in self._identity.items():
            params[key] = value.to(params[key]).expand(len(params[key]), *value.shape)
        return self.objective.forward(self.model, params, examples, support_x).flatten(2)

    def _task(self, adapted: Tensors, asked: Tensor, task: int) -> np.ndarray:
        """Fit the estimator to one task; return logits ``[Q, ways]`` or values ``[Q, outputs]``."""
        from sklearn.base import clone
        from sklearn.exceptions import ConvergenceWarning

        kept = adapted[MASK][task] if MASK in adapted else slice(None)
        x = adapted[FEATURES][task][kept].double().cpu().numpy()
        y = adapted[TARGETS][task][kept].cpu().numpy()
        query = asked[task].double().cpu().numpy()
        if not (np.isfinite(x).all() and np.isfinite(query).all()):
            # The task diverged: estimators reject NaN and infinity.
            width = self.spec.outputs if self.objective.numbers else int(adapted[TARGETS].max()) + 1
            return np.full((len(query), width), np.nan)
        one = self.objective.numbers and y.shape[1] == 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                fitted = clone(self._estimator).fit(x, y[:, 0] if one else y)
                if self.objective.numbers:
                    return np.asarray(fitted.predict(query)).reshape(len(query), -1)
                return _logits(fitted, query, int(adapted[TARGETS].max()) + 1)
        except (ValueError, TypeError, ArithmeticError) as error:
            raise DataError(f"head '{self._name}' cannot be fitted ({one_line(str(error))})") from None


def _logits(fitted: Any, x: np.ndarray, ways: int) -> np.ndarray:
    """Return logits ``[B, ways]``: log probabilities, or scores of an estimator without them."""
    labels = fitted.classes_
    if hasattr(fitted, "predict_proba"):
        scores = np.log(np.maximum(fitted.predict_proba(x), LEAST))
    elif hasattr(fitted, "decision_function"):
        scores = fitted.decision_function(x)
        if scores.ndim == 1:
            scores = np.stack([np.zeros_like(scores), scores], axis=1)
    else:
        scores = np.log(np.maximum(fitted.predict(x)[:, None] == labels, LEAST))
    found = np.full((len(x), ways), scores.min(axis=1, keepdims=True) + np.log(LEAST))
    found[:, labels] = scores
    return found


def identity_head(model: Model, spec: TaskSpec) -> Tensors:
    """Return weights that make the last linear layer the identity, without a task axis.

    Raises:
        ConfigError: If the model does not end in a linear layer.
    """
    axes = find_head(model, spec, "a scikit-learn head takes the place of the model's")
    drawn = model.init(torch.Generator())
    sizes = {drawn[key].shape[1 + axis] for key, axis in axes.items() if drawn[key].dim() == 2}
    if len(sizes) != 1 or any(drawn[key].dim() > 2 for key in axes):
        raise ConfigError("a scikit-learn head needs a model that ends in a linear layer")
    width = sizes.pop()
    return {key: torch.eye(width) if drawn[key].dim() == 2 else torch.zeros(width) for key in axes}
