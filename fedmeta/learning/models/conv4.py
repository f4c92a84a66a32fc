"""The four-block convolutional network of few-shot learning, on the task axis."""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.errors import ConfigError
from fedmeta.learning.algorithm import Model, Tensors
from fedmeta.learning.layers import convolve, last_output, linear, max_pool, uniform
from fedmeta.learning.models.norm import batch_norm
from fedmeta.learning.native.kernel import KernelPlan
from fedmeta.tasks import TaskSpec

BLOCKS = 4


class Conv4(Model):
    """Four blocks of 3x3 convolution, batch norm and ReLU, then a linear head.

    ``pooling = "stride"``: stride 2, then the mean over the remaining image: the Omniglot network of
    MAML (Finn et al. 2017, section 5.2). ``pooling = "max"``: stride 1, 2x2 max-pooling, flattened: the
    network of Vinyals et al. 2016 ("Matching Networks", 4.1) and Snell et al. 2017; an image of one
    pixel is not pooled further. The convolutions have no bias, which batch norm would cancel.

    Weights start Glorot-uniform (Glorot, Bengio 2010, equation 16), as in MAML's code; biases at 0 and
    the scales of batch norm at 1.

    Raises:
        ConfigError: If the tasks' inputs are not images ``[H, W]`` or ``[C, H, W]``.
    """

    class Options(options.Options):
        """Options of Conv4.

        Attributes:
            width: Channels of every convolution.
            pooling: ``stride``: strided convolutions, then the mean over the image; ``max``: 2x2
                max-pooling.
        """

        width: PositiveInt = 64
        pooling: Literal["stride", "max"] = "stride"

    # Measured for 32 tasks with 1 query per class and freed memory kept: 270 ms one by one, 204 ms in
    # chunks of 4, 195 ms in chunks of 8 or 16; smaller chunks are easier to share among workers.
    chunk_tasks = 8
    batch_norm = True

    def __init__(self, options: Options, spec: TaskSpec, outputs: int | None) -> None:
        if spec.vocabulary or len(spec.input_shape) not in (2, 3):
            fitting = "lstm" if spec.vocabulary else "mlp"
            raise ConfigError(
                f"model 'conv4' needs images [H, W] or [C, H, W] but the task's inputs have the shape "
                f"{list(spec.input_shape)}; choose {fitting!r}"
            )
        self._options, self._spec = options, spec
        self._input_shape = tuple(spec.input_shape)
        self._channels = spec.input_shape[0] if len(spec.input_shape) == 3 else 1
        self._strided = options.pooling == "stride"
        self._width = options.width
        features = self._width * (1 if self._strided else _pooled_area(*spec.input_shape[-2:]))
        self._head = None if outputs is None else (features, outputs)
        self.outputs = features if outputs is None else outputs

    @override
    def init(self, generator: torch.Generator) -> Tensors:
        """Draw ``conv<i>.weight [9 * in, width]``, ``norm<i>.weight``, ``norm<i>.bias`` and the head."""
        params: Tensors = {}
        channels = self._channels
        for block in range(BLOCKS):
            bound = math.sqrt(6 / (9 * channels + 9 * self._width))
            params[f"conv{block}.weight"] = uniform((9 * channels, self._width), bound, generator)
            params[f"norm{block}.weight"] = torch.ones(self._width)
            params[f"norm{block}.bias"] = torch.zeros(self._width)
            channels = self._width
        if self._head is not None:
            params["head.weight"] = uniform(self._head, math.sqrt(6 / sum(self._head)), generator)
            params["head.bias"] = torch.zeros(self._head[1])
        return params

    @override
    def body(self) -> Model:
        """Return the same blocks without a head."""
        return Conv4(self._options, self._spec, None)

    def kernel_plan(self) -> KernelPlan:
        """Describe the network to its native kernel."""
        outputs = 0 if self._head is None else self._head[1]
        image = self._input_shape[-2:]
        sizes = (*image, self._channels, self._width, int(self._strided), outputs)
        shapes = {name: tuple(value.shape) for name, value in self.init(torch.Generator()).items()}
        return KernelPlan("conv4", sizes, shapes, self._input_shape, self.outputs, images=True)

    @override
    def forward(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensor:
        """Compute ``[T, B, outputs]`` from images ``[T, B, H, W]`` or ``[T, B, C, H, W]``."""
        output = last_output(self._layers(params, x, stat_rows))
        return output if self._head is None else linear(params, "head", output)

    @override
    def activations(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensors:
        """Return the output of each block, ``conv<i>``, and of the head."""
        found = dict(self._layers(params, x, stat_rows))
        features = found.pop("features")
        return found if self._head is None else {**found, "head": linear(params, "head", features)}

    def _layers(self, params: Tensors, x: Tensor, stat_rows: int | None) -> Iterator[tuple[str, Tensor]]:
        images = x.unsqueeze(-1) if x.dim() == 4 else x.permute(0, 1, 3, 4, 2)
        for block in range(BLOCKS):
            images = self._block(params, block, images, stat_rows)
            yield f"conv{block}", images
        yield "features", images.mean((2, 3)) if self._strided else images.flatten(2)

    def _block(self, params: Tensors, block: int, images: Tensor, stat_rows: int | None) -> Tensor:
        images = convolve(images, params[f"conv{block}.weight"], stride=2 if self._strided else 1)
        pixels = images.shape[2] * images.shape[3]
        rows = None if stat_rows is None else stat_rows * pixels
        norm = params[f"norm{block}.weight"], params[f"norm{block}.bias"]
        images = torch.relu(batch_norm(images.flatten(1, 3), *norm, rows)).view_as(images)
        return images if self._strided else max_pool(images)


def _pooled_area(height: int, width: int) -> int:
    for _ in range(BLOCKS):
        height, width = max(height // 2, 1), max(width // 2, 1)
    return height * width
