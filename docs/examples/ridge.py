"""Ridge regression on meta-learned features: tasks are solved in closed form, without a step."""

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.errors import ConfigError
from fedmeta.learning import Algorithm, Model, Tensors, forward_query, per_task_loss
from fedmeta.learning.inner import SUPPORT_X, gradients, leaves
from fedmeta.tasks import TaskBatch, TaskSpec

HEAD = "head"
LOG_RIDGE = "log_ridge"


class RidgeHead(Algorithm):
    """Meta-learn features, and how strongly to regularise the linear head that is solved on them.

    Bertinetto et al. 2019, "Meta-learning with Differentiable Closed-form Solvers", section 3.2: with
    the features ``X`` and targets ``Y`` of the support set, ``W = X^T (X X^T + lambda I)^-1 Y``. The
    query loss is differentiated through that solution, by the network and by ``log lambda``, which
    make up the state.

    Raises:
        ConfigError: If the tasks are no regression.
    """

    class Options(options.Options):
        """Options of the ridge head.

        Attributes:
            ridge: The regularisation ``lambda`` to start from.
        """

        ridge: float = Field(default=0.1, gt=0)

    def __init__(self, options: Any, model: Model, spec: TaskSpec, transductive: bool = True) -> None:
        super().__init__(options, model, spec, transductive)
        if spec.kind != "regression":
            raise ConfigError("algorithm 'RidgeHead' needs a regression task")

    @staticmethod
    @override
    def model_outputs(spec: TaskSpec) -> None:
        """Ask for a network without a head: its last hidden layer is the features."""
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
        head = self._solve(state, tasks.support_x, tasks.support_y)
        support = None if self.transductive else tasks.support_x
        prediction = self._features(state, tasks.query_x, support) @ head
        loss = per_task_loss(self.spec, prediction, tasks.query_y)
        before = per_task_loss(self.spec, torch.zeros_like(prediction), tasks.query_y)
        return gradients(loss, state), {"loss": loss.detach(), "loss_before": before}

    @override
    @torch.no_grad()
    def adapt(self, state: Tensors, support_x: Tensor, support_y: Tensor, steps: int) -> Tensors:
        """Return the head ``[T, features, outputs]``: zero for no step, the solution for any other."""
        head = self._solve(state, support_x, support_y)
        return {HEAD: head if steps else torch.zeros_like(head), SUPPORT_X: support_x}

    @override
    @torch.no_grad()
    def predict(
        self, state: Tensors, adapted: Tensors, x: Tensor, transductive: bool | None = None
    ) -> Tensor:
        """Apply the head to the features of ``x``; see `Algorithm.predict`."""
        transductive = self.transductive if transductive is None else transductive
        support = None if transductive else adapted[SUPPORT_X]
        return self._features(state, x, support) @ adapted[HEAD]

    def _solve(self, state: Tensors, x: Tensor, y: Tensor) -> Tensor:
        features = self._features(state, x, None)
        identity = torch.eye(x.shape[1], dtype=features.dtype)
        ridge = state[LOG_RIDGE].exp().view(-1, 1, 1)
        # S support points need a system of S rows only, however many features there are.
        kernel = features @ features.mT + ridge * identity
        head: Tensor = features.mT @ torch.linalg.solve(kernel, y)
        return head

    def _features(self, state: Tensors, x: Tensor, support_x: Tensor | None) -> Tensor:
        """Compute the features ``[T, B, features]``, the last of which is constant 1, for an offset."""
        params = {key: value for key, value in state.items() if key != LOG_RIDGE}
        features = forward_query(self.model, params, x, support_x)
        return torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)
