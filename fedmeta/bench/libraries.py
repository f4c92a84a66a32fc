"""Rivals: MAML by torch.func, higher and TorchOpt, as their documentation does it."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from fedmeta.bench.rivals import Episode, MetaGradient

TORCH_FUNC = "torch.func"


def installed() -> dict[str, MetaGradient]:
    """Return the second-order meta-gradients of the installed PyTorch libraries, by name."""
    known = {TORCH_FUNC: by_torch_func, "higher": by_higher, "torchopt": by_torchopt}
    return {name: function for name, function in known.items() if find_spec(name)}


def by_torch_func(episode: Episode) -> list[Tensor]:
    """Compute the meta-gradient as ``vmap`` of ``grad``, all tasks at once."""
    names = [name for name, _ in episode.module.named_parameters()]

    def loss_at(values: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        named = dict(zip(names, values, strict=True))
        return episode.loss(functional_call(episode.module, named, x), y)

    def query_loss(
        initial: list[Tensor], support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor
    ) -> Tensor:
        values = initial
        for _ in range(episode.inner_steps):
            slopes = grad(loss_at)(values, support_x, support_y)
            if not episode.second_order:
                slopes = [slope.detach() for slope in slopes]
            values = [v - episode.inner_lr * g for v, g in zip(values, slopes, strict=True)]
        return loss_at(values, query_x, query_y)

    initial = [parameter.detach() for parameter in episode.module.parameters()]
    support, query = episode.tasks.support, episode.tasks.query
    by_task = vmap(grad(query_loss), in_dims=(None, 0, 0, 0, 0))(
        initial, support["x"], support["y"], query["x"], query["y"]
    )
    return [slopes.mean(0) for slopes in by_task]


def by_higher(episode: Episode) -> list[Tensor]:
    """Compute the meta-gradient with higher (Grefenstette et al. 2019), as its documentation does."""
    import higher

    initial = list(episode.module.parameters())
    total = [torch.zeros_like(parameter) for parameter in initial]
    optimizer = torch.optim.SGD(initial, lr=episode.inner_lr)
    for support_x, support_y, query_x, query_y in episode.each():
        with higher.innerloop_ctx(episode.module, optimizer, copy_initial_weights=False) as (
            learner,
            inner,
        ):
            for _ in range(episode.inner_steps):
                inner.step(episode.loss(learner(support_x), support_y))
            loss = episode.loss(learner(query_x), query_y)
            for sum_, gradient in zip(total, torch.autograd.grad(loss, initial), strict=True):
                sum_ += gradient
    return [sum_ / len(episode.tasks) for sum_ in total]


def by_torchopt(episode: Episode) -> list[Tensor]:
    """Compute the meta-gradient with TorchOpt's MetaSGD (Ren et al. 2023), as its tutorial does."""
    import torchopt

    # TorchOpt replaces the parameters in the module, so the initial ones are saved and restored.
    initial = list(episode.module.parameters())
    total = [torch.zeros_like(parameter) for parameter in initial]
    optimizer: Any = torchopt.MetaSGD(episode.module, lr=episode.inner_lr)
    module_start = torchopt.extract_state_dict(episode.module, by="reference")
    optimizer_start = torchopt.extract_state_dict(optimizer, by="reference")
    for support_x, support_y, query_x, query_y in episode.each():
        for _ in range(episode.inner_steps):
            optimizer.step(episode.loss(episode.module(support_x), support_y))
        loss = episode.loss(episode.module(query_x), query_y)
        for sum_, gradient in zip(total, torch.autograd.grad(loss, initial), strict=True):
            sum_ += gradient
        torchopt.recover_state_dict(episode.module, module_start)
        torchopt.recover_state_dict(optimizer, optimizer_start)
    return [sum_ / len(episode.tasks) for sum_ in total]
