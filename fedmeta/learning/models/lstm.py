"""An LSTM on the task axis, over characters or over sequences of features."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.errors import ConfigError
from fedmeta.learning.algorithm import Model, Tensors
from fedmeta.learning.layers import init_linear, init_lstm, last_output, linear, lstm_cell
from fedmeta.learning.native.kernel import KernelPlan
from fedmeta.tasks import TaskSpec

DEEPEST = 8
"""Layers that the native kernel takes at most."""


class LSTM(Model):
    """LSTM layers over tokens, with a linear head at every position, or over features, with one head.

    Tokens are embedded first. A sequence of features ``[L, D]``, real numbers, has one output: that of
    the head after the last position.

    Hochreiter, Schmidhuber 1997, with the forget gate of Gers et al. 2000; gates in the order input,
    forget, cell, output. The embedding starts normal, all else uniform in ``±1/sqrt(hidden)``, as in
    ``torch.nn.Embedding`` and ``torch.nn.LSTM``. LEAF's Shakespeare network (Caldas et al. 2018) has
    ``embedding = 8, hidden = 256, layers = 2``.

    Raises:
        ConfigError: If the tasks' inputs are neither tokens nor sequences of features.
    """

    class Options(options.Options):
        """Options of the LSTM.

        Attributes:
            embedding: Size of a token's embedding; features have none.
            hidden: Units of a layer.
            layers: Number of stacked LSTM layers.
        """

        embedding: PositiveInt = 8
        hidden: PositiveInt = 64
        layers: PositiveInt = 1

    chunk_tasks = 32
    batch_norm = False

    def __init__(self, options: Options, spec: TaskSpec, outputs: int | None) -> None:
        if not spec.vocabulary and len(spec.input_shape) != 2:
            raise ConfigError(
                "model 'lstm' reads tokens, or features [L, D], but the task's inputs are real numbers "
                f"of the shape {list(spec.input_shape)}; choose 'mlp'"
            )
        self._spec = spec
        self._vocabulary = spec.vocabulary
        self._options = options
        self._head = outputs
        self.outputs = options.hidden if outputs is None else outputs

    @override
    def init(self, generator: torch.Generator) -> Tensors:
        """Draw the embedding ``[V, E]``, weights ``[in, 4H]`` and ``[H, 4H]`` a layer, and the head."""
        size, hidden = self._spec.input_shape[-1], self._options.hidden
        params: Tensors = {}
        if self._vocabulary:
            size = self._options.embedding
            params["embedding"] = torch.empty(self._vocabulary, size).normal_(generator=generator)
        for layer in range(self._options.layers):
            params |= init_lstm(f"lstm{layer}", size, hidden, generator)
            size = hidden
        if self._head is not None:
            params |= init_linear("head", hidden, self._head, generator)
        return params

    @override
    def body(self) -> Model:
        """Return the embedding, if there is one, and the layers."""
        return LSTM(self._options, self._spec, None)

    def kernel_plan(self) -> KernelPlan | None:
        """Describe the network to its native kernel.

        None: there is no head, the inputs are features, or there are more than 8 layers.
        """
        options = self._options
        if self._head is None or not self._vocabulary or options.layers > DEEPEST:
            return None
        sizes = (self._vocabulary, options.embedding, options.hidden, options.layers, self._head)
        shapes = {name: tuple(value.shape) for name, value in self.init(torch.Generator()).items()}
        return KernelPlan("lstm", sizes, shapes, (), self.outputs, tokens=True)

    @override
    def forward(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensor:
        """Compute ``[T, B, L, outputs]`` from tokens ``[T, B, L]``; `stat_rows` has no effect.

        From features ``[T, B, L, D]`` compute ``[T, B, outputs]``.
        """
        hidden = last_output(self._layers(params, x))
        hidden = hidden if self._vocabulary else hidden[:, :, -1]
        if self._head is None:
            return hidden
        return linear(params, "head", hidden.flatten(1, -2)).view(*hidden.shape[:-1], -1)

    @override
    def activations(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensors:
        """Return the output of the embedding of tokens, of each layer ``lstm<i>``, and of the head."""
        found = dict(self._layers(params, x))
        return found if self._head is None else {**found, "head": self.forward(params, x)}

    def _layers(self, params: Tensors, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        features = x
        if self._vocabulary:
            features = _embed(params["embedding"], x)
            yield "embedding", features
        for layer in range(self._options.layers):
            features = _layer(params, f"lstm{layer}", features)
            yield f"lstm{layer}", features


def _embed(weight: Tensor, tokens: Tensor) -> Tensor:
    """Look the tokens ``[T, B, L]`` up in their own task's table of ``[T, V, E]``."""
    tasks, vocabulary, _ = weight.shape
    offsets = torch.arange(tasks, device=tokens.device).view(tasks, 1, 1) * vocabulary
    return F.embedding(tokens + offsets, weight.flatten(0, 1))


def _layer(params: Tensors, name: str, x: Tensor) -> Tensor:
    """Run one layer over ``x [T, B, L, in]`` from a zero state and return ``[T, B, L, H]``."""
    tasks, batch, length = x.shape[:3]
    inputs = linear(params, name, x.flatten(1, 2)).view(tasks, batch, length, -1)
    recurrent = params[f"{name}.recurrent"]
    hidden = cell = x.new_zeros(tasks, batch, recurrent.shape[1])
    outputs = []
    for step in inputs.unbind(2):
        hidden, cell = lstm_cell(torch.baddbmm(step, hidden, recurrent), cell)
        outputs.append(hidden)
    return torch.stack(outputs, dim=2)
