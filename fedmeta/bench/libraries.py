"""Further rivals: the same meta-gradient by libraries that may be installed."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from fedmeta.bench.clone_and_loop import Episode

MetaGradient = Callable[[Episode], list[Tensor]]


def installed() -> dict[str, MetaGradient]:
    """Return those libraries' ways to compute a meta-gradient that can be imported here."""
    known = {"higher": by_higher, "torchopt": by_torchopt}
    return {name: function for name, function in known.items() if find_spec(name)}


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

    # TorchOpt replaces the parameters inside the module, so the initial ones are kept and put back.
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
