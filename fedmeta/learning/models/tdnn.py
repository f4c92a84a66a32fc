"""A time-delay neural network: convolutions over time on the task axis."""

from collections.abc import Iterator

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.errors import ConfigError
from fedmeta.learning.algorithm import Model, Tensors
from fedmeta.learning.layers import init_linear, last_output, linear
from fedmeta.tasks import TaskSpec


class TDNN(Model):
    """Layers over windows of a few frames, the mean over time, then a linear head.

    Waibel, Hanazawa, Hinton, Shikano, Lang 1989, "Phoneme Recognition Using Time-Delay Neural Networks",
    with rectified units instead of sigmoids. The same weights read every window, so what is learned does
    not depend on when it occurs. Weights and biases start uniform in ``±1/sqrt(fan_in)``.

    Raises:
        ConfigError: If the tasks' inputs are not sequences of features ``[L, D]``, or are too short.
    """

    class Options(options.Options):
        """Options of the TDNN.

        Attributes:
            hidden: Units of each layer.
            window: Frames that a layer's unit sees of the layer before.
        """

        hidden: list[PositiveInt] = Field(default=[32, 32], min_length=1)
        window: PositiveInt = 3

    chunk_tasks = 32
    batch_norm = False

    def __init__(self, options: Options, spec: TaskSpec, outputs: int | None) -> None:
        if spec.vocabulary or len(spec.input_shape) != 2:
            raise ConfigError(
                "model 'tdnn' needs sequences of features [L, D] but the task's inputs "
                + ("are tokens; choose 'lstm'" if spec.vocabulary else "are others; choose 'mlp'")
            )
        length, features = spec.input_shape
        needed = (options.window - 1) * len(options.hidden) + 1
        if length < needed:
            raise ConfigError(
                f"network.window = {options.window} in {len(options.hidden)} layers needs {needed} "
                f"frames, but the task's inputs have {length}"
            )
        self._options, self._spec = options, spec
        self._widths = [features, *options.hidden]
        self._head = outputs
        self.outputs = self._widths[-1] if outputs is None else outputs

    @override
    def init(self, generator: torch.Generator) -> Tensors:
        """Draw ``time<i>``, weights ``[in * window, out]`` and biases ``[out]``, and the head."""
        params: Tensors = {}
        for layer, width in enumerate(self._options.hidden):
            inputs = self._widths[layer] * self._options.window
            params |= init_linear(f"time{layer}", inputs, width, generator)
        if self._head is not None:
            params |= init_linear("head", self._widths[-1], self._head, generator)
        return params

    @override
    def body(self) -> Model:
        """Return the layers and the mean."""
        return TDNN(self._options, self._spec, None)

    @override
    def forward(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensor:
        """Compute ``[T, B, outputs]`` from ``x [T, B, L, D]``; `stat_rows` has no effect."""
        mean = last_output(self._layers(params, x)).mean(2)
        return mean if self._head is None else linear(params, "head", mean)

    @override
    def activations(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensors:
        """Return the output of each layer, ``time<i>``, and of the head."""
        found = dict(self._layers(params, x))
        return found if self._head is None else {**found, "head": self.forward(params, x)}

    def _layers(self, params: Tensors, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        for layer in range(len(self._options.hidden)):
            name = f"time{layer}"
            # [T, B, L', D, window]
            windows = x.unfold(2, self._options.window, 1)
            rows = windows.flatten(3).flatten(1, 2)
            x = torch.relu(linear(params, name, rows)).view(*windows.shape[:3], -1)
            yield name, x
