"""A multilayer perceptron on the task axis."""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.errors import ConfigError
from fedmeta.learning.algorithm import Model, Tensors
from fedmeta.learning.layers import init_linear, last_output, linear
from fedmeta.learning.native.kernel import KernelPlan
from fedmeta.tasks import TaskSpec

DEEPEST = 16
"""Layers that the native kernel takes at most."""
ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


class MLP(Model):
    """Fully connected layers; the default is the sinusoid network of MAML (Finn et al. 2017, 5.1).

    Inputs are flattened. Without a head the last hidden layer's activations are the embedding; if there
    are no hidden layers either, the embedding is the flattened input, and there is nothing to learn.
    Weights and biases start uniform in ``±1/sqrt(fan_in)`` (see `init_linear`).

    Raises:
        ConfigError: If the tasks' inputs are tokens.
    """

    class Options(options.Options):
        """Options of the MLP.

        Attributes:
            hidden: Units of each hidden layer, from the input on; an empty list: a linear model.
            activation: Activation between layers.
        """

        hidden: list[PositiveInt] = Field(default=[40, 40])
        activation: Literal["relu", "tanh", "sigmoid"] = "relu"

    chunk_tasks = 64
    batch_norm = False

    def __init__(self, options: Options, spec: TaskSpec, outputs: int | None) -> None:
        if spec.vocabulary:
            raise ConfigError(
                "model 'mlp' reads real numbers but the task's inputs are tokens; choose 'lstm'"
            )
        self._options, self._spec = options, spec
        self._input_shape = tuple(spec.input_shape)
        inputs = 1
        for side in spec.input_shape:
            inputs *= side
        sizes = [inputs, *options.hidden]
        self._layers = {f"hidden{i}": (sizes[i], sizes[i + 1]) for i in range(len(options.hidden))}
        self._head = None if outputs is None else (sizes[-1], outputs)
        self._activation_name = options.activation
        self._activation = ACTIVATIONS[options.activation]
        self.outputs = sizes[-1] if outputs is None else outputs

    def init(self, generator: torch.Generator) -> Tensors:
        """Draw weights ``[in, out]`` and biases ``[out]`` of every layer."""
        params: Tensors = {}
        for name, (fan_in, fan_out) in self._layers.items():
            params |= init_linear(name, fan_in, fan_out, generator)
        if self._head is not None:
            params |= init_linear("head", *self._head, generator)
        return params

    @override
    def body(self) -> Model:
        """Return the hidden layers."""
        return MLP(self._options, self._spec, None)

    def kernel_plan(self) -> KernelPlan | None:
        """Describe the network to its native kernel; None: there is no layer to compute."""
        layers = [*self._layers.items(), *([("head", self._head)] if self._head else [])]
        if not layers or len(layers) > DEEPEST:
            return None
        widths = [layers[0][1][0], *(width for _, (_, width) in layers)]
        activation = list(ACTIVATIONS).index(self._activation_name)
        sizes = (len(layers), activation, int(self._head is not None), *widths)
        shapes = {name: tuple(value.shape) for name, value in self.init(torch.Generator()).items()}
        return KernelPlan("mlp", sizes, shapes, self._input_shape, self.outputs)

    @override
    def forward(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensor:
        """Compute ``[T, B, outputs]`` from ``x [T, B, ...]``; `stat_rows` has no effect."""
        hidden = last_output(self._run(params, x))
        return hidden if self._head is None else linear(params, "head", hidden)

    @override
    def activations(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensors:
        """Return the output of each hidden layer, ``hidden<i>``, and of the head."""
        _, *layers = self._run(params, x)
        found = dict(layers)
        return found if self._head is None else {**found, "head": self.forward(params, x)}

    def _run(self, params: Tensors, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        hidden = x.flatten(2)
        yield "input", hidden
        for name in self._layers:
            hidden = self._activation(linear(params, name, hidden))
            yield name, hidden
