"""Layers with a set of weights per task."""

import math

import torch
from torch import Tensor

from fedmeta.learning.base import Tensors


def uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    """Draw a float32 tensor uniform in ``[-bound, bound)``."""
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def init_linear(name: str, fan_in: int, fan_out: int, generator: torch.Generator) -> Tensors:
    """Draw weight ``[in, out]`` and bias ``[out]`` uniform in ``±1/sqrt(fan_in)``.

    The rule of ``torch.nn.Linear`` (LeCun et al. 1998, "Efficient BackProp", 4.6: unit fan-in scaling).
    """
    bound = 1 / math.sqrt(fan_in)
    return {
        f"{name}.weight": uniform((fan_in, fan_out), bound, generator),
        f"{name}.bias": uniform((fan_out,), bound, generator),
    }


def linear(params: Tensors, name: str, x: Tensor) -> Tensor:
    """Compute ``x [T, B, in] @ weight [T, in, out] + bias [T, out]`` for every task at once."""
    return torch.baddbmm(params[f"{name}.bias"].unsqueeze(1), x, params[f"{name}.weight"])
