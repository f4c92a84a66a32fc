"""The rival: MAML the usual way, a clone of the module per task in a Python loop."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedmeta.tasks import TaskBatch

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Episode:
    """One second-order MAML meta-gradient to compute.

    Attributes:
        module: The network with the initial weights.
        loss: Mean loss of predictions and targets of one task.
        inner_lr: Step size of the inner steps.
        inner_steps: How many there are.
        tasks: The meta-batch.
    """

    module: nn.Module
    loss: Loss
    inner_lr: float
    inner_steps: int
    tasks: TaskBatch

    def each(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Yield support inputs, support targets, query inputs and query targets, task by task."""
        tasks = self.tasks
        yield from zip(tasks.support_x, tasks.support_y, tasks.query_x, tasks.query_y, strict=True)


def meta_gradient(episode: Episode) -> list[Tensor]:
    """Return the meta-gradient averaged over the tasks, in the order of ``module.parameters()``.

    What learn2learn's MAML does (Arnold et al. 2020): clone the module so that gradients flow back to
    the original, descend by replacing the clone's parameters, and differentiate the query loss.
    """
    initial = list(episode.module.parameters())
    total = [torch.zeros_like(parameter) for parameter in initial]
    for support_x, support_y, query_x, query_y in episode.each():
        learner = clone(episode.module)
        for _ in range(episode.inner_steps):
            loss = episode.loss(learner(support_x), support_y)
            gradients = torch.autograd.grad(loss, list(learner.parameters()), create_graph=True)
            descend(learner, iter(gradients), episode.inner_lr)
        loss = episode.loss(learner(query_x), query_y)
        for sum_, gradient in zip(total, torch.autograd.grad(loss, initial), strict=True):
            sum_ += gradient
    return [sum_ / len(episode.tasks) for sum_ in total]


def clone(module: nn.Module) -> nn.Module:
    """Copy a module so that the copy's parameters are differentiable functions of the original's."""
    copy: nn.Module = object.__new__(type(module))
    copy.__dict__.update(module.__dict__)
    copy.__dict__["_parameters"] = {
        name: None if parameter is None else parameter.clone()
        for name, parameter in module._parameters.items()
    }
    copy.__dict__["_modules"] = {
        name: None if child is None else clone(child) for name, child in module._modules.items()
    }
    return copy


def descend(module: nn.Module, gradients: Iterator[Tensor], rate: float) -> None:
    """Replace each parameter by ``parameter - rate * gradient``, keeping the graph."""
    parameters: dict[str, Tensor | None] = module.__dict__["_parameters"]
    for name, parameter in parameters.items():
        if parameter is not None:
            parameters[name] = parameter - rate * next(gradients)
    for child in module.children():
        descend(child, gradients, rate)
