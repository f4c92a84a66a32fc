"""Local training steps of a stack of clients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fedmeta.tasks import TaskBatch, torch_generator

Tensors = dict[str, Tensor]
"""A flat dict of tensors: parameters, a meta-learned state, a gradient, adapted values."""

TaskUpdates = Callable[[Tensors, TaskBatch], tuple[Tensors, Tensors]]
"""The type of `fedmeta.learning.Algorithm.task_updates`."""


class KeyRule(NamedTuple):
    """How the server treats updates of one tensor of its state.

    Attributes:
        step: ``optimizer``: the update is a pseudo-gradient, which the server's optimizer descends.
            ``add``: the update is a change, which is added directly.
        average: How updates are averaged: weighted by ``tasks``; over the admitted ``clients``; or over
            the whole ``population``, where a client that sent nothing counts as a change of zero.
        checked: Whether the norm bound, the copy check, robust rules and contribution scores use it; if
            not, it is averaged. Scores never use tensors with ``step = "add"``.
    """

    step: Literal["optimizer", "add"] = "optimizer"
    average: Literal["tasks", "clients", "population"] = "tasks"
    checked: bool = True


@dataclass(frozen=True)
class LocalWork:
    """The work of C clients in one round.

    Attributes:
        clients: Their C partition ids.
        tasks: Their tasks, client by client, and within a client by local step.
        steps: Local steps of each client.
        rate: Step size of the local steps.
        task_updates: Computes each task's pseudo-gradient.
        proximal_mu: Weight of FedProx's term in each step; None: the algorithm's own, which is 0 but for
            FedProx.
        seed: Seed of the run.
        round: The round.
    """

    clients: Sequence[int]
    tasks: TaskBatch
    steps: int
    rate: float
    task_updates: TaskUpdates
    proximal_mu: float | None = None
    seed: int = 0
    round: int = 0

    def updates(self, state: Tensors, step: int) -> tuple[Tensors, Tensors]:
        """Return each client's update of one local step: the mean over its tasks of that step.

        Args:
            state: Each client's current state, ``[C, ...]``.
            step: The local step, counted from 0.

        Returns:
            The mean updates ``[C, ...]``, keys of `state`, and the mean metrics, ``[C]`` each.
        """
        count = len(self.clients)
        each = len(self.tasks) // (count * self.steps)
        rows = {key: _for_each_task(value, each) for key, value in state.items()}
        updates, metrics = self.task_updates(rows, self._of_step(step, each))
        return (
            {key: _client_mean(value, count) for key, value in updates.items()},
            {key: _client_mean(value, count) for key, value in metrics.items()},
        )

    def generator(self, client: int) -> torch.Generator:
        """Return the random generator of one client's local steps, independent of other clients."""
        return torch_generator(self.seed, "local", self.round, client)

    def _of_step(self, step: int, each: int) -> TaskBatch:
        """Pick the tasks of one local step, `each` of every client, client by client."""
        if self.steps == 1:
            return self.tasks

        def pick(values: Tensor) -> Tensor:
            split = values.view(len(self.clients), self.steps, each, *values.shape[1:])
            return split[:, step].flatten(0, 1)

        return self.tasks.map(pick)


def local_steps(start: Tensors, work: LocalWork) -> tuple[Tensors, Tensors]:
    """Take local steps ``theta <- theta - rate * g``; sum each client's g and average its metrics.

    The sum is ``(theta_0 - theta_k) / rate``, the direction of FedAvg's server step (Reddi et al. 2021,
    "Adaptive Federated Optimization", Algorithm 1). With ``proximal_mu`` each g includes the gradient
    ``mu (theta - theta_0)`` of FedProx's term (Li et al. 2020, "Federated Optimization in Heterogeneous
    Networks", equation 2), which is 0 in the first step.

    Args:
        start: The state that each of C clients starts from, ``[C, ...]``.
        work: Their work.

    Returns:
        The sums, ``[C, ...]`` each, and the clients' metrics, ``[C]`` each.
    """
    own, total = start, Tensors()
    seen: list[Tensors] = []
    for step in range(work.steps):
        mean, metrics = work.updates(own, step)
        seen.append(metrics)
        if work.proximal_mu and total:
            pull = work.proximal_mu * work.rate
            mean = {key: value - pull * total[key] for key, value in mean.items()}
        total = {key: total[key] + mean[key] for key in mean} if total else mean
        if step + 1 < work.steps:
            own = {key: value - work.rate * mean[key] for key, value in own.items()}
    return total, mean_metrics(seen)


def mean_metrics(steps: Sequence[Tensors]) -> Tensors:
    """Average each client's metrics ``[C]`` over its local steps."""
    return {name: torch.stack([metrics[name] for metrics in steps]).mean(0) for name in steps[0]}


def _for_each_task(own: Tensor, tasks: int) -> Tensor:
    """Repeat ``[C, ...]`` for each client's tasks, ``[C * tasks, ...]``; no copy where all share."""
    if tasks == 1:
        return own
    if own.stride(0) == 0:
        return own[:1].expand(own.shape[0] * tasks, *own.shape[1:])
    return own.repeat_interleave(tasks, 0)


def _client_mean(values: Tensor, clients: int) -> Tensor:
    """Average ``[C * n, ...]`` over each client's n tasks, ``[C, ...]``."""
    values = values.detach()
    if values.shape[0] == clients:
        return values
    return values.reshape(clients, -1, *values.shape[1:]).mean(1)
