"""Ridge regression on meta-learned features, solved in closed form."""

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.errors import ConfigError
from fedmeta.learning import Algorithm, Model, Tensors
from fedmeta.learning.inner import gradients, leaves
from fedmeta.tasks import Examples, TaskBatch, TaskSpec

HEAD = "head"
LOG_RIDGE = "log_ridge"


class RidgeHead(Algorithm):
    """Meta-learn features, and the strength of the ridge penalty for a linear head on top of them.

    Bertinetto et al. 2019, "Meta-learning with Differentiable Closed-form Solvers", section 3.2: with
    the features ``X`` and targets ``Y`` of the support set, ``W = X^T (X X^T + lambda I)^-1 Y``. The
    query loss is differentiated through that solution. The state is the network's weights and
    ``log lambda``.

    Raises:
        ConfigError: If the objective is not regression.
    """

    class Options(options.Options):
        """Options of the ridge head.

        Attributes:
            ridge: Initial value of the regularisation ``lambda``.
        """

        ridge: float = Field(default=0.1, gt=0)

    def __init__(self, options: Any, model: Model, spec: TaskSpec, transductive: bool = True) -> None:
        super().__init__(options, model, spec, transductive)
        if spec.objective != "regression":
            raise ConfigError("algorithm 'RidgeHead' needs a regression task")

    @staticmethod
    @override
    def model_outputs(spec: TaskSpec) -> None:
        """Return None, for a network without a head: its last hidden layer is the features."""
        return

    @override
    def init(self, generator: torch.Generator) -> Tensors:
        """Draw the network's weights; ``lambda`` starts at ``ridge``."""
        return {**self.model.init(generator), LOG_RIDGE: torch.tensor(math.log(self.options.ridge))}

    @override
    @torch.enable_grad()
    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Return the gradient of the query loss; before adaptation the head is zero."""
        state = leaves(state)
        head = self._solve(state, tasks.support)
        support_x = self.statistics(self.context(tasks.support))
        prediction = self._features(state, tasks.query, support_x) @ head
        loss = self.objective.loss(prediction, tasks.query)
        zeros = torch.zeros_like(prediction)
        before = self.objective.loss(zeros, tasks.query)
        metrics = self.metrics((before, zeros, tasks.query), (loss, prediction, tasks.query))
        return gradients(loss, state), metrics

    @override
    @torch.no_grad()
    def adapt(self, state: Tensors, support: Examples, steps: int) -> Tensors:
        """Return the head ``[T, features, outputs]``: zero for no step, the solution for any other."""
        head = self._solve(state, support)
        return {HEAD: head if steps else torch.zeros_like(head), **self.context(support)}

    @override
    @torch.no_grad()
    def predict(
        self, state: Tensors, adapted: Tensors, examples: Examples, transductive: bool | None = None
    ) -> Tensor:
        """Apply the head to the features of `examples`; see `Algorithm.predict`."""
        support_x = self.statistics(adapted, transductive)
        return self._features(state, examples, support_x) @ adapted[HEAD]

    def _solve(self, state: Tensors, support: Examples) -> Tensor:
        features = self._features(state, support, None)
        identity = torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
        ridge = state[LOG_RIDGE].exp().view(-1, 1, 1)
        # S support points need a system of S rows only, however many features there are.
        kernel = features @ features.mT + ridge * identity
        head: Tensor = features.mT @ torch.linalg.solve(kernel, support["y"])
        return head

    def _features(self, state: Tensors, examples: Examples, support_x: Tensor | None) -> Tensor:
        """Compute the features ``[T, B, features]``, the last of which is constant 1 (the bias)."""
        params = {key: value for key, value in state.items() if key != LOG_RIDGE}
        features = self.objective.forward(self.model, params, examples, support_x)
        return torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)
