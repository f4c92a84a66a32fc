"""Oracles: the paper's formula by hand, finite differences, and the pretrained network itself."""

import pytest
import torch
from torch import Tensor, nn

from fedmeta.errors import ConfigError
from fedmeta.learning.lora import add_adapters
from fedmeta.tasks import TaskSpec
from tests.learning.cases import (
    Case,
    assert_gradient,
    loss_after,
    make_learner,
    make_state,
    make_tasks,
)

SPEC = TaskSpec("classification", (2, 6, 6), 3)


def pretrained() -> nn.Sequential:
    """Stands for a network that was trained before: the same weights whenever it is built."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        body = nn.Sequential(
            nn.Conv2d(2, 4, 3, groups=2, padding=1),
            nn.BatchNorm2d(4),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(4 * 36, 5),
        )
        body(torch.randn(9, 2, 6, 6))  # gives the batch norm running statistics
    return body


class Adapted(nn.Module):
    """A pretrained network with adapters and a new head."""

    def __init__(self, names: tuple[str, ...] = ("*",), rank: int = 2) -> None:
        super().__init__()
        self.body = add_adapters(pretrained(), rank, scale=0.5, names=names)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(torch.tanh(self.body(x)))
        return result


def case(**network: object) -> Case:
    return Case("tests.learning.test_lora:Adapted", network, SPEC)


def test_the_network_starts_as_it_was() -> None:
    x = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    before = pretrained().eval()
    assert torch.equal(add_adapters(pretrained())(x), before(x))


@pytest.mark.parametrize(
    "layer", [nn.Linear(4, 3), nn.Conv2d(4, 6, 3, groups=2), nn.MultiheadAttention(4, 2)]
)
def test_a_weight_becomes_the_sum_of_the_paper(layer: nn.Module) -> None:
    names = [name for name, value in layer.named_parameters() if value.dim() > 1]
    before = {name: layer.get_parameter(name).detach().clone() for name in names}
    add_adapters(layer, rank=2, scale=3.0)
    for name, weight in before.items():
        path, _, own = name.rpartition(".")
        part = layer.get_submodule(path)
        adapter = part.parametrizations[own][0]  # type: ignore[index, union-attr]
        nn.init.normal_(adapter.up)  # type: ignore[union-attr, arg-type]
        change = torch.einsum("or,ri->oi", adapter.up, adapter.down)  # type: ignore[union-attr]
        torch.testing.assert_close(getattr(part, own), weight + 3.0 * change.view(weight.shape))
        assert torch.linalg.matrix_rank(change) == 2


def test_only_adapters_and_what_is_not_frozen_are_learned() -> None:
    learner = make_learner("maml", case())
    state = learner.init(torch.Generator().manual_seed(0))
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        "body.0.parametrizations.weight.0.down": (2, 9),
        "body.0.parametrizations.weight.0.up": (4, 2),
        "body.4.parametrizations.weight.0.down": (2, 144),
        "body.4.parametrizations.weight.0.up": (5, 2),
        "head.weight": (3, 5),
        "head.bias": (3,),
    }
    held = learner.model.constants
    assert torch.equal(held["body.4.parametrizations.weight.original"], pretrained()[4].weight)
    assert not learner.model.batch_norm  # it normalises by the statistics of before


@pytest.mark.parametrize("algorithm", ["maml", "anil", "boil"])
def test_the_meta_gradient_through_frozen_layers_is_that_of_finite_differences(algorithm: str) -> None:
    learner = make_learner(algorithm, case(), inner_lr=0.1, inner_steps=2)
    tasks, state = make_tasks(SPEC), make_state(learner)
    updates, _ = learner.task_updates(state, tasks)
    assert all(bool(value.any()) for value in updates.values())
    assert_gradient(lambda at: loss_after(learner, at, tasks, 2), state, updates)


def test_names_choose_what_is_adapted_and_a_wrong_one_is_refused() -> None:
    state = make_learner("maml", case(names=["4.*"])).init(torch.Generator().manual_seed(0))
    assert [key for key in state if key.startswith("body.0")] == []
    with pytest.raises(
        ConfigError, match=r"no weight matrix of the network has a name that matches attn\.\*"
    ):
        make_learner("maml", case(names=["attn.*"]))
    with pytest.raises(ConfigError, match="rank must be at least 1, not 0"):
        make_learner("maml", case(rank=0))
