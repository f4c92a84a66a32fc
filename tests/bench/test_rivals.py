"""The rivals compute the same meta-gradients as fedmeta."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedmeta.bench import jax_rival, maml
from fedmeta.bench.libraries import by_higher, by_torch_func, by_torchopt
from fedmeta.bench.maml import Duel
from fedmeta.bench.rivals import Episode, as_module_parameter, clone, meta_gradient
from fedmeta.bench.timing import pinned
from fedmeta.errors import RunError

DUELS = {
    "maml-sinusoid": maml.sinusoid_duel,
    # Nine tasks are more than one chunk.
    "maml-conv4": partial(maml.conv4_duel, tasks=9, width=3),
}
WAYS = {
    "clone-and-loop": meta_gradient,
    "torch.func": by_torch_func,
    "higher": by_higher,
    "torchopt": by_torchopt,
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with pinned(1):
        yield


def ours(duel: Duel) -> list[Tensor]:
    return [as_module_parameter(key, value) for key, value in duel.ours().items()]


@pytest.mark.parametrize("case", DUELS)
@pytest.mark.parametrize("way", WAYS)
def test_every_rival_computes_our_meta_gradient(case: str, way: str):
    if way == "torchopt":
        # Like JAX below, it is not installed with the tests, but by the extra `bench`.
        pytest.importorskip(way)
    rival: Callable[[Episode], list[Tensor]] = WAYS[way]
    duel = DUELS[case](dtype="float64")
    before = [parameter.detach().clone() for parameter in duel.episode.module.parameters()]
    for _ in range(2):
        # Twice: a rival must leave the module as it found it.
        for mine, theirs in zip(ours(duel), rival(duel.episode), strict=True):
            assert mine.shape == theirs.shape
            assert (mine - theirs).norm() <= 1e-9 * theirs.norm()
    after = list(duel.episode.module.parameters())
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.skipif(not jax_rival.is_installed(), reason="JAX is installed by the extra `bench`")
def test_jax_computes_our_meta_gradient_in_its_own_process():
    duel = maml.sinusoid_duel(dtype="float64")
    with jax_rival.jax_rival(duel.episode) as jax:
        jax()
        assert jax.first_call > 0
        for mine, theirs in zip(ours(duel), jax.gradients, strict=True):
            assert mine.shape == theirs.shape
            assert (mine - torch.from_numpy(theirs)).norm() <= 1e-9 * mine.norm()


def test_a_jax_process_that_ends_is_an_error_in_one_line(tmp_path: Path):
    pipe = subprocess.PIPE
    with (
        subprocess.Popen([sys.executable, "-c", ""], stdin=pipe, stdout=pipe, text=True) as process,
        pytest.raises(RunError, match=r"^bench: the JAX process has ended"),
    ):
        jax_rival.JaxRival(process, tmp_path / "answer.npz")


def test_torch_func_leaves_out_second_derivatives_at_first_order():
    episode = replace(maml.sinusoid_duel(dtype="float64").episode, second_order=False)
    for loop, theirs in zip(meta_gradient(episode), by_torch_func(episode), strict=True):
        assert (loop - theirs).norm() <= 1e-9 * loop.norm()


def test_a_clone_computes_the_same_and_passes_gradients_to_its_original():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
    x = torch.tensor([[1.0, -2.0]])
    copy = clone(module)
    assert torch.equal(copy(x), module(x))
    through = torch.autograd.grad(copy(x).sum(), list(module.parameters()))
    direct = torch.autograd.grad(module(x).sum(), list(module.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(through, direct, strict=True))
    assert not any(a is b for a, b in zip(copy.parameters(), module.parameters(), strict=True))
