"""ResNet-12, the residual network of few-shot learning, on the task axis."""

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.errors import ConfigError
from fedmeta.learning.algorithm import Model, Tensors
from fedmeta.learning.layers import convolve, init_linear, last_output, linear, max_pool
from fedmeta.learning.models.norm import batch_norm
from fedmeta.tasks import TaskSpec

CONVOLUTIONS = 3
SLOPE = 0.1
SHORTCUT = "shortcut"


class ResNet12(Model):
    """Residual blocks of three 3x3 convolutions, the mean over the image, then a linear head.

    Oreshkin, Rodriguez, Lacoste 2018, "TADAM: Task Dependent Adaptive Metric for Improved Few-shot
    Learning", appendix; Lee, Maji, Ravichandran, Soatto 2019, "Meta-Learning with Differentiable Convex
    Optimization", section 4.1. Each convolution is followed by batch norm and, except for a block's
    last, a leaky ReLU of slope 0.1. The input of the block, through a 1x1 convolution and batch norm,
    is added; a leaky ReLU and 2x2 max-pooling follow. The convolutions have no bias, which batch norm
    would cancel. Lee et al.'s DropBlock is left out, as models have no random numbers; their network is
    also without the mean over the image.

    Convolutions start normal with variance ``2 / ((1 + 0.1^2) fan_out)`` (He et al. 2015, "Delving Deep
    into Rectifiers", equation 14), the scales of batch norm at 1 and its biases at 0.

    Raises:
        ConfigError: If the tasks' inputs are not images ``[H, W]`` or ``[C, H, W]``.
    """

    class Options(options.Options):
        """Options of ResNet-12.

        Attributes:
            widths: Channels of each block: those of Oreshkin et al.; Lee et al. have 64, 160, 320, 640.
        """

        widths: list[PositiveInt] = Field(default=[64, 128, 256, 512], min_length=1)

    # Measured for ProtoNet and MAML, 5-way 1-shot: a task takes as long in chunks of 2 or 4.
    chunk_tasks = 1
    batch_norm = True

    def __init__(self, options: Options, spec: TaskSpec, outputs: int | None) -> None:
        if spec.vocabulary or len(spec.input_shape) not in (2, 3):
            fitting = "lstm" if spec.vocabulary else "mlp"
            raise ConfigError(
                f"model 'resnet12' needs images [H, W] or [C, H, W] but the task's inputs have the "
                f"shape {list(spec.input_shape)}; choose {fitting!r}"
            )
        channels = spec.input_shape[0] if len(spec.input_shape) == 3 else 1
        self._widths = [channels, *options.widths]
        self._options, self._spec = options, spec
        self._head = outputs
        self.outputs = self._widths[-1] if outputs is None else outputs

    @override
    def init(self, generator: torch.Generator) -> Tensors:
        """Draw ``block<i>.conv<j>`` and ``block<i>.shortcut`` with their batch norms, and the head."""
        params: Tensors = {}
        for block, (before, width) in enumerate(pairwise(self._widths)):
            for index in range(CONVOLUTIONS):
                channels = width if index else before
                params |= _init_layer(f"block{block}.conv{index}", 9, channels, width, generator)
            params |= _init_layer(f"block{block}.{SHORTCUT}", 1, before, width, generator)
        if self._head is not None:
            params |= init_linear("head", self._widths[-1], self._head, generator)
        return params

    @override
    def body(self) -> Model:
        """Return the blocks and the mean."""
        return ResNet12(self._options, self._spec, None)

    @override
    def forward(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensor:
        """Compute ``[T, B, outputs]`` from images ``[T, B, H, W]`` or ``[T, B, C, H, W]``."""
        features = last_output(self._blocks(params, x, stat_rows)).mean((2, 3))
        return features if self._head is None else linear(params, "head", features)

    @override
    def activations(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensors:
        """Return the output of each block, ``block<i>``, and of the head."""
        found = dict(self._blocks(params, x, stat_rows))
        if self._head is None:
            return found
        features = list(found.values())[-1].mean((2, 3))
        return {**found, "head": linear(params, "head", features)}

    def _blocks(self, params: Tensors, x: Tensor, stat_rows: int | None) -> Iterator[tuple[str, Tensor]]:
        images = x.unsqueeze(-1) if x.dim() == 4 else x.permute(0, 1, 3, 4, 2)
        for block in range(len(self._widths) - 1):
            images = _block(params, f"block{block}", images, stat_rows)
            yield f"block{block}", images


def _init_layer(name: str, area: int, channels: int, width: int, generator: torch.Generator) -> Tensors:
    deviation = math.sqrt(2 / ((1 + SLOPE**2) * area * width))
    weight = torch.empty(area * channels, width).normal_(0.0, deviation, generator=generator)
    return {
        f"{name}.weight": weight,
        f"{name}.norm.weight": torch.ones(width),
        f"{name}.norm.bias": torch.zeros(width),
    }


def _block(params: Tensors, name: str, images: Tensor, stat_rows: int | None) -> Tensor:
    """Compute a residual block on channels-last images ``[T, B, H, W, C]``."""
    flat = images.flatten(1, 3)
    shortcut = torch.bmm(flat, params[f"{name}.{SHORTCUT}.weight"])
    shortcut = shortcut.view(*images.shape[:4], -1)
    total = _normalised(params, f"{name}.{SHORTCUT}", shortcut, stat_rows)
    for index in range(CONVOLUTIONS):
        layer = f"{name}.conv{index}"
        images = convolve(images, params[f"{layer}.weight"], stride=1)
        images = _normalised(params, layer, images, stat_rows)
        if index < CONVOLUTIONS - 1:
            images = F.leaky_relu(images, SLOPE)
    return max_pool(F.leaky_relu(images + total, SLOPE))


def _normalised(params: Tensors, layer: str, images: Tensor, stat_rows: int | None) -> Tensor:
    rows = None if stat_rows is None else stat_rows * images.shape[2] * images.shape[3]
    norm = params[f"{layer}.norm.weight"], params[f"{layer}.norm.bias"]
    return batch_norm(images.flatten(1, 3), *norm, rows).view_as(images)
