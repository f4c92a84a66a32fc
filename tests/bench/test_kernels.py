"""All contenders of the `kernels` benchmark compute the same gradient."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedmeta.bench.kernels import AUTOGRAD, KERNELS, settings
from fedmeta.bench.maml import RIVAL
from fedmeta.bench.rivals import as_module_parameter
from fedmeta.bench.timing import pinned
from tests.kernels import needs_kernels

pytestmark = needs_kernels
SMALL = {"conv4": {"width": 8}, "lstm": {"hidden": 8}}


@pytest.mark.parametrize("name", [name for name in settings() if "15 a class" not in name])
def test_kernels_autograd_and_all_rivals_compute_the_same(name: str) -> None:
    usual = settings()[name]
    # A small step: after a large one, a rounding error on this side of a kink is another on that side.
    learner = {**usual.learner, "inner_lr": 0.01} if usual.learner else {}
    setting = replace(usual, network={**usual.network, **SMALL[usual.model]}, learner=learner)
    with pinned(1):
        found: dict[str, Any] = {who: compute() for who, compute in setting.contenders().items()}
    ours = found[KERNELS]
    for key, value in found[AUTOGRAD].items():
        torch.testing.assert_close(ours[key], value, rtol=2e-3, atol=2e-4)
    if setting.model == "lstm":
        # PyTorch's LSTM has two biases with equal gradients.
        embedding, weight, recurrent, bias, _, head, head_bias = found[RIVAL]
        loop = [embedding, weight.T, recurrent.T, bias, head.T, head_bias]
        own = list(ours.values())
    else:
        loop, own = found[RIVAL], [as_module_parameter(key, value) for key, value in ours.items()]
    libraries = [value for who, value in found.items() if who not in (KERNELS, AUTOGRAD, RIVAL)]
    for others in (loop, *libraries):
        for mine, theirs in zip(own, others, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=2e-3, atol=2e-4)
