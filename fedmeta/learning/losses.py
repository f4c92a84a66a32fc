"""What a prediction costs, task by task."""

import torch.nn.functional as F
from torch import Tensor

from fedmeta.learning.base import Tensors
from fedmeta.tasks import TaskSpec


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
