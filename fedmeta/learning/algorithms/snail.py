"""SNAIL: temporal convolutions and causal attention over the examples of a task."""

import math

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.about import About
from fedmeta.learning.algorithm import Tensors
from fedmeta.learning.attention import attend
from fedmeta.learning.embedding import EmbeddingAlgorithm, Support
from fedmeta.learning.layers import init_linear, linear

EXAMPLES, COUNT = "examples", "count"


class SNAIL(EmbeddingAlgorithm):
    """SNAIL: a network reads the support examples in order, then one query, and predicts its target.

    Mishra, Rohaninejad, Chen, Abbeel 2018, "A Simple Neural Attentive Meta-Learner", sections 3 and
    3.1, figures 1 and 2: attention blocks with temporal convolution blocks between them, each of which
    appends its outputs to its inputs. The sequence is of embeddings with their targets beside them,
    zeros for the query. Layer i of a convolution block is a gated causal convolution of two taps,
    dilated by ``2^i``, from i = 1.

    All queries of a task are computed at once, each as if it were the only one after the support, which
    is possible because the network is causal. Labels have fixed inputs and outputs: a task has
    at most ``spec.outputs`` ways.

    Raises:
        ConfigError: If tasks are neither classification with one label per example nor regression.
    """

    about = About(
        paper='Mishra, Rohaninejad, Chen, Abbeel 2018, "A Simple Neural Attentive Meta-Learner"',
        year=2018,
        family="attention",
        learns="an embedding and a network that reads a sequence of examples",
        sends="the query gradient of all weights",
    )
    regression = True
    any_ways = False

    class Options(options.Options):
        """Options of SNAIL.

        Attributes:
            keys: Size of the keys of each attention block; values are half as large.
            filters: Filters of each convolution.
            support: Support examples that the convolution blocks are made for: they have
                ``ceil(log2(support + 1))`` layers. With more examples, a layer reaches less far back.
        """

        keys: list[PositiveInt] = Field(default=[64, 256, 512], min_length=1)
        filters: PositiveInt = 128
        support: PositiveInt = 25

    options: Options

    @property
    def _dilations(self) -> list[int]:
        return [2**layer for layer in range(1, math.ceil(math.log2(self.options.support + 1)) + 1)]

    @override
    def init_own(self, generator: torch.Generator) -> Tensors:
        """Draw the blocks' affine maps and the last layer."""
        size = self.model.outputs + self.spec.outputs
        own: Tensors = {}
        for block, keys in enumerate(self.options.keys):
            if block:
                for layer in range(len(self._dilations)):
                    for part in ("filter", "gate"):
                        name = f"snail.convolution{block}.{layer}.{part}"
                        own |= init_linear(name, 2 * size, self.options.filters, generator)
                    size += self.options.filters
            values = max(keys // 2, 1)
            for part, width in (("query", keys), ("key", keys), ("value", values)):
                own |= init_linear(f"snail.attention{block}.{part}", size, width, generator)
            size += values
        return own | init_linear("snail.last", size, self.spec.outputs, generator)

    @override
    def condition(self, own: Tensors, support: Support) -> Tensors:
        """Return the support examples with their targets, and how many there are."""
        examples = torch.cat([support.features, support.targets], -1)
        return {EXAMPLES: examples, COUNT: support.valid.sum(1)}

    @override
    def answer(self, own: Tensors, known: Tensors, features: Tensor) -> Tensor:
        """Return the outputs at the last position of each query's sequence."""
        return self._run(own, known, features)

    @override
    def weigh(self, own: Tensors, known: Tensors, support: Support, features: Tensor) -> Tensor:
        """Return the attention on the support examples, averaged over the blocks."""
        seen: list[Tensor] = []
        self._run(own, known, features, seen)
        size = support.features.shape[1]
        return torch.stack(seen).mean(0)[:, size:, :size]

    def _run(
        self, own: Tensors, known: Tensors, features: Tensor, seen: list[Tensor] | None = None
    ) -> Tensor:
        support, count = known[EXAMPLES], known[COUNT]
        size, asked = support.shape[1], features.shape[1]
        unknown = features.new_zeros(*features.shape[:2], self.spec.outputs)
        x = torch.cat([support, torch.cat([features, unknown], -1)], dim=1)
        order = torch.arange(size, device=x.device)
        position = torch.cat([order.expand(len(x), -1), count.view(-1, 1).expand(-1, asked)], 1)
        # Support examples lie at their own positions, and each query just after the last of them.
        distance = position.unsqueeze(-1) - order
        # Padding may lie where the query is.
        nearest = (torch.arange(size + asked, device=x.device) >= size).view(-1, 1).long()
        for block in range(len(self.options.keys)):
            if block:
                x = self._convolve(own, f"snail.convolution{block}", x, distance)
            x = self._attend(own, f"snail.attention{block}", x, distance >= nearest, seen)
        return linear(own, "snail.last", x[:, size:])

    def _convolve(self, own: Tensors, name: str, x: Tensor, distance: Tensor) -> Tensor:
        """Append the outputs of a temporal convolution block (section 3, figure 2a)."""
        size = distance.shape[-1]
        for layer, dilation in enumerate(self._dilations):
            # A product with zeros and ones, whose gradient is exact and in a fixed order on any device.
            earlier = (distance == dilation).to(x.dtype) @ x[:, :size]
            taps = torch.cat([earlier, x], -1)
            made = torch.tanh(linear(own, f"{name}.{layer}.filter", taps))
            gate = torch.sigmoid(linear(own, f"{name}.{layer}.gate", taps))
            x = torch.cat([x, made * gate], -1)
        return x

    def _attend(
        self, own: Tensors, name: str, x: Tensor, allowed: Tensor, seen: list[Tensor] | None
    ) -> Tensor:
        """Append what an attention block reads (figure 2b)."""
        query, key, value = (linear(own, f"{name}.{part}", x) for part in ("query", "key", "value"))
        return torch.cat([x, attend(query, key, value, allowed, seen)], -1)
