"""SCAFFOLD: federated averaging corrected for client drift."""

import torch
from torch import Tensor
from typing_extensions import override

from fedmeta.about import About
from fedmeta.learning.algorithm import Tensors
from fedmeta.learning.algorithms.fedavg import FedAvg
from fedmeta.learning.local import KeyRule, LocalWork, mean_metrics
from fedmeta.tasks import TaskBatch

CONTROL = "@control."
"""Prefix of the server's control variates c, followed by the weight's name; no parameter has it."""


class Scaffold(FedAvg):
    """SCAFFOLD: local steps corrected for client drift by control variates.

    Karimireddy, Kale, Mohri, Reddi, Stich, Suresh 2020, "SCAFFOLD: Stochastic Controlled Averaging for
    Federated Learning", Algorithm 1. A local step is ``y <- y - local_lr (g(y) - c_i + c)`` (equation
    3), and after K of them the client's control variate is ``c_i - c + (x - y) / (K local_lr)``
    (equation 4, option II). The server averages the weights and adds ``1/N`` of the changes of the
    ``c_i`` to ``c``, so that c is the mean of all N clients' ``c_i``. Both begin at 0.

    The state holds the weights and c; a client's memory is its ``c_i``. At test it is FedAvg.
    """

    about = About(
        paper="Karimireddy, Kale, Mohri, Reddi, Stich, Suresh 2020, "
        '"SCAFFOLD: Stochastic Controlled Averaging for Federated Learning"',
        year=2020,
        family="baseline",
        learns="one model for all",
        sends="the changes of the weights and of its control variate",
    )

    @override
    def init(self, generator: torch.Generator) -> Tensors:
        """Draw the model's weights; the control variates are 0."""
        weights = super().init(generator)
        return weights | {CONTROL + key: torch.zeros_like(value) for key, value in weights.items()}

    @override
    def weights(self, state: Tensors) -> Tensors:
        """Return the part of the state that is the model's weights."""
        return {key: value for key, value in state.items() if not key.startswith(CONTROL)}

    @override
    def init_client(self, client: int) -> Tensors:
        """Return a control variate of 0 for each weight."""
        # Shapes are the same whatever is drawn.
        return {k: torch.zeros_like(v) for k, v in self.model.init(torch.Generator()).items()}

    @override
    def key_rule(self, key: str) -> KeyRule:
        """Average changes of control variates over all clients, and add them."""
        return KeyRule("add", "population") if key.startswith(CONTROL) else KeyRule()

    @override
    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Return each task's gradient of the weights, and zeros for the control variates."""
        updates, metrics = super().task_updates(self.weights(state), tasks)
        still = {key: torch.zeros_like(value) for key, value in state.items() if key not in updates}
        return updates | still, metrics

    @override
    def local_update(
        self, start: Tensors, client: Tensors, work: LocalWork
    ) -> tuple[Tensors, Tensors, Tensors]:
        """Take corrected local steps; return the sum of the steps' gradients, and the changes of c_i."""
        own = self.weights(start)
        server = {key: start[CONTROL + key] for key in own}
        total: dict[str, Tensor] = {key: torch.zeros_like(value) for key, value in own.items()}
        seen = []
        for step in range(work.steps):
            gradient, metrics = work.updates(start | own, step)
            seen.append(metrics)
            descended = {key: gradient[key] - client[key] + server[key] for key in own}
            total = {key: total[key] + descended[key] for key in own}
            own = {key: own[key] - work.rate * descended[key] for key in own}
        change = {key: total[key] / work.steps - server[key] for key in own}
        controls = {key: client[key] + change[key] for key in own}
        update = total | {CONTROL + key: value for key, value in change.items()}
        return update, controls, mean_metrics(seen)
