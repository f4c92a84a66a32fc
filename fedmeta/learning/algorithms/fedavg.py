"""Federated averaging: one model for all, as the baseline of meta-learning."""

import torch
from pydantic import Field

from fedmeta import options
from fedmeta.learning.base import ALGORITHMS, Tensors
from fedmeta.learning.inner import WeightAdaptation, gradients, leaves
from fedmeta.learning.losses import adaptation_metrics, per_task_loss
from fedmeta.tasks import TaskBatch


@ALGORITHMS.register("fedavg")
class FedAvg(WeightAdaptation):
    """FedAvg: the plain gradient on all of a task's examples; no adaptation while training.

    McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    Algorithm 1: this is one local step's gradient; the client repeats it (``local_steps``), the server
    averages. At test the model is fine-tuned on the support set by gradient descent with ``inner_lr``.
    """

    class Options(options.Options):
        """Options of FedAvg.

        Attributes:
            inner_lr: Step size of fine-tuning on the support set, at test alone.
        """

        inner_lr: float = Field(default=0.01, gt=0)

    @torch.enable_grad()
    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Return each task's gradient on support and query together; before and after are the same."""
        x = torch.cat([tasks.support_x, tasks.query_x], dim=1)
        y = torch.cat([tasks.support_y, tasks.query_y], dim=1)
        params = leaves(state)
        prediction = self.model.forward(params, x)
        loss = per_task_loss(self.spec, prediction, y)
        metrics = adaptation_metrics(self.spec, (prediction, y), (prediction, y), (loss, loss))
        return gradients(loss, params), metrics
