"""FedPer: a shared body with a personal head for each client."""

from typing import Any

import torch
from typing_extensions import override

from fedmeta.learning import LocalWork, Model, Tensors, mean_metrics
from fedmeta.learning.algorithms.fedavg import FedAvg
from fedmeta.learning.head import find_head
from fedmeta.tasks import TaskBatch, TaskSpec


class FedPer(FedAvg):
    """FedAvg of all layers but the last one, which stays on the client.

    Arivazhagan, Aggarwal, Singh, Choudhary 2019, "Federated Learning with Personalization Layers",
    Algorithm 1: a client takes local steps on both, sends the body, and keeps the head for its next
    round. Heads start at 0; held-out clients are fine-tuned from there.
    """

    def __init__(self, options: Any, model: Model, spec: TaskSpec, transductive: bool = True) -> None:
        super().__init__(options, model, spec, transductive)
        self.head_names = find_head(model, spec, "each client keeps its head")

    @override
    def init(self, generator: torch.Generator) -> Tensors:
        """Draw the body."""
        drawn = self.model.init(generator)
        return {key: value for key, value in drawn.items() if key not in self.head_names}

    @override
    def init_client(self, client: int) -> Tensors:
        """Return a head of zeros, the same for every client."""
        drawn = self.model.init(torch.Generator())
        return {key: torch.zeros_like(drawn[key]) for key in self.head_names}

    @override
    def local_update(
        self, start: Tensors, client: Tensors, work: LocalWork
    ) -> tuple[Tensors, Tensors, Tensors]:
        """Step body and head; send the change of the body, keep the head."""
        own, seen = start | client, []
        total = {key: torch.zeros_like(value) for key, value in start.items()}
        for step in range(work.steps):
            gradient, metrics = work.updates(own, step)
            own = {key: value - work.rate * gradient[key] for key, value in own.items()}
            total = {key: total[key] + gradient[key] for key in start}
            seen.append(metrics)
        return total, {key: own[key] for key in client}, mean_metrics(seen)

    @override
    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Return each task's gradient for the keys of `state`: the body, or body and head."""
        updates, metrics = super().task_updates(self.weights(state), tasks)
        return {key: updates[key] for key in state}, metrics

    @override
    def weights(self, state: Tensors) -> Tensors:
        """Return all weights of the model; a head that is not in the state is 0."""
        tasks, any_value = next((len(value), value) for value in state.values())
        heads = {
            key: value.to(any_value.dtype).expand(tasks, *value.shape)
            for key, value in self.init_client(0).items()
        }
        return heads | state
