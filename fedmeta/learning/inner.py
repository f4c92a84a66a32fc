"""Inner-loop gradient descent, and per-task losses and accuracies."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.learning.algorithm import Algorithm, Model, Tensors
from fedmeta.tasks import TaskSpec

SUPPORT_X = "@support_x"
"""Key under which adapted weights carry the support inputs; no parameter can have this name."""


class AdaptationOptions(options.Options):
    """Options of adaptation by gradient descent on a support set.

    Attributes:
        inner_lr: Step size of the steps.
    """

    inner_lr: float = Field(default=0.01, gt=0)


class InnerOptions(AdaptationOptions):
    """Options of an inner loop of plain gradient descent.

    Attributes:
        inner_lr: Step size of the inner loop; in ``meta_sgd``, where each weight's own starts.
        inner_steps: Inner steps in training; at test, ``evaluation.steps`` says how many.
    """

    inner_steps: int = Field(default=1, ge=1)


class InnerGradient(NamedTuple):
    """The gradient of each task's loss by its own weights, and what was computed on the way.

    Attributes:
        values: Keys and shapes of the weights, ``[T, ...]``.
        loss: ``[T]``.
        prediction: ``[T, B, ..., outputs]``.
    """

    values: Tensors
    loss: Tensor
    prediction: Tensor


def leaves(params: Tensors) -> Tensors:
    """Return the same values as fresh leaves to differentiate by."""
    return {key: value.detach().requires_grad_() for key, value in params.items()}


def gradients(losses: Tensor, params: Tensors, create_graph: bool = False) -> Tensors:
    """Differentiate losses ``[T]`` by per-task tensors; in one pass, as no task depends on another."""
    grads = torch.autograd.grad(
        losses.sum(), list(params.values()), create_graph=create_graph, materialize_grads=True
    )
    return dict(zip(params, grads, strict=True))


def sgd_step(params: Tensors, grads: Tensors, rate: float | Tensors) -> Tensors:
    """Return ``params - rate * grads``; `rate` is one number or a tensor per parameter."""
    if isinstance(rate, float):
        # The same bits as a subtraction, whose derivative negates and scales in two passes.
        return {key: torch.add(value, grads[key], alpha=-rate) for key, value in params.items()}
    return {key: torch.addcmul(value, rate[key], grads[key], value=-1) for key, value in params.items()}


class WeightAdaptation(Algorithm):
    """An algorithm that adapts by descending the support loss from the weights in its state.

    Subclasses add `task_updates`, and override `weights` and `rates`, or `descend`, where theirs differ.
    """

    options: AdaptationOptions

    def init(self, generator: torch.Generator) -> Tensors:
        """Draw the model's initial weights."""
        return self.model.init(generator)

    def weights(self, state: Tensors) -> Tensors:
        """Return the part of the state that is the model's weights."""
        return state

    def rates(self, state: Tensors) -> float | Tensors:  # noqa: ARG002 (for those that learn them)
        """Return the inner learning rate, or one tensor per weight."""
        return self.options.inner_lr

    def inner_gradient(
        self, params: Tensors, x: Tensor, y: Tensor, create_graph: bool = False
    ) -> InnerGradient:
        """Differentiate the loss on ``x, y`` by `params`, which must require gradients."""
        prediction = self.model.forward(params, x)
        loss = per_task_loss(self.spec, prediction, y)
        return InnerGradient(gradients(loss, params, create_graph), loss, prediction)

    def descend(self, state: Tensors, x: Tensor, y: Tensor) -> Iterator[Tensors]:
        """Yield the weights after 0, 1, 2, ... steps, without end and without a graph."""
        params = self.weights(state)
        rates = self.rates(state)
        while True:
            params = {key: value.detach() for key, value in params.items()}
            yield params
            with torch.enable_grad():
                params = leaves(params)
                grads = self.inner_gradient(params, x, y).values
            with torch.no_grad():
                params = sgd_step(params, grads, rates)

    def adapt(self, state: Tensors, support_x: Tensor, support_y: Tensor, steps: int) -> Tensors:
        """Return the weights after `steps` inner steps; `steps` may exceed the training's."""
        return next(self.trajectory(state, support_x, support_y, [steps]))[1]

    def trajectory(
        self, state: Tensors, support_x: Tensor, support_y: Tensor, steps: Sequence[int]
    ) -> Iterator[tuple[int, Tensors]]:
        """Yield the weights after each of the increasing `steps` of one and the same descent."""
        context = {SUPPORT_X: support_x} if self.model.batch_norm else {}
        wanted = set(steps)
        for step, params in enumerate(self.descend(state, support_x, support_y)):
            if step in wanted:
                yield step, {**params, **context}
            if step >= max(wanted, default=0):
                return

    @override
    def predict(
        self,
        state: Tensors,
        adapted: Tensors,
        x: Tensor,
        transductive: bool | None = None,
    ) -> Tensor:
        """Predict with adapted weights; see `Algorithm.predict`."""
        params = {key: value for key, value in adapted.items() if key != SUPPORT_X}
        transductive = self.transductive if transductive is None else transductive
        return forward_query(self.model, params, x, None if transductive else adapted.get(SUPPORT_X))


def forward_query(model: Model, params: Tensors, x: Tensor, support_x: Tensor | None) -> Tensor:
    """Compute the predictions for query inputs.

    Args:
        model: The network.
        params: Weights per task.
        x: Query inputs ``[T, Q, *input]``.
        support_x: The examples whose statistics batch norm uses (inductive); None: those of `x`
            themselves (transductive).
    """
    if support_x is None or not model.batch_norm:
        return model.forward(params, x)
    rows = support_x.shape[1]
    return model.forward(params, torch.cat([support_x, x], dim=1), rows)[:, rows:]


def per_task_loss(spec: TaskSpec, prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean loss of each task, ``[T]``.

    Cross-entropy of logits ``[T, B, ..., C]`` and labels ``[T, B, ...]`` for classification, the mean
    squared error of two tensors ``[T, B, D]`` for regression; the mean is over all but the task axis.
    """
    if spec.kind == "regression":
        return (prediction - target).square().flatten(1).mean(1)
    logits = prediction.flatten(0, -2)
    losses = F.cross_entropy(logits, target.flatten(), reduction="none")
    return losses.view(prediction.shape[0], -1).mean(1)


def per_task_accuracy(prediction: Tensor, target: Tensor) -> Tensor:
    """Return ``[T]``, the share of labels ``[T, B, ...]`` that logits ``[T, B, ..., C]`` rank first."""
    hits = prediction.detach().argmax(-1) == target
    return hits.flatten(1).to(prediction.dtype).mean(1)


def adaptation_metrics(
    spec: TaskSpec,
    before: tuple[Tensor, Tensor],
    after: tuple[Tensor, Tensor],
    losses: tuple[Tensor, Tensor],
) -> Tensors:
    """Collect the per-task metrics of `Algorithm.task_updates`.

    Args:
        spec: The shape of the tasks.
        before: Prediction and target of examples that the parameters had not been adapted to.
        after: Prediction and target of the query set, after adaptation.
        losses: Loss per task before and after, ``[T]`` each.
    """
    metrics = {"loss_before": losses[0].detach(), "loss": losses[1].detach()}
    if spec.kind == "classification":
        metrics["accuracy_before"] = per_task_accuracy(*before)
        metrics["accuracy"] = per_task_accuracy(*after)
    return metrics
