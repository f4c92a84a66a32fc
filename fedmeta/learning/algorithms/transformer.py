"""Transformer in context: a transformer that reads the support set as context."""

from typing import Self

import torch
import torch.nn.functional as F
from pydantic import PositiveInt, model_validator
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.about import About
from fedmeta.learning.algorithm import Tensors
from fedmeta.learning.attention import attend
from fedmeta.learning.embedding import EmbeddingAlgorithm, Support
from fedmeta.learning.layers import init_linear, init_norm, linear

TOKENS, MASK = "tokens", "mask"


class Transformer(EmbeddingAlgorithm):
    """Transformer in context: predicts a query's target with the support examples as its context.

    Müller, Hollmann, Pineda Arango, Grabocka, Hutter 2022, "Transformers Can Do Bayesian Inference",
    section 3: a token is an embedded example, to which a support example's embedded target is added.
    Support examples attend to all of them, a query to them and to itself. Without positions, the order
    of the support set does not matter. Blocks are those of Vaswani et al. 2017 with the layer norms
    first (Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture").

    Labels have fixed inputs and outputs: a task has at most ``spec.outputs`` ways.

    Raises:
        ConfigError: If tasks are neither classification with one label per example nor regression.
    """

    about = About(
        paper="Müller, Hollmann, Pineda Arango, Grabocka, Hutter 2022, "
        '"Transformers Can Do Bayesian Inference"',
        year=2022,
        family="attention",
        learns="an embedding and a transformer that reads the support set",
        sends="the query gradient of all weights",
    )
    regression = True
    any_ways = False

    class Options(options.Options):
        """Options of the transformer.

        Attributes:
            width: Size of a token; a multiple of ``heads``.
            layers: Number of blocks.
            heads: Attention heads of a block.
        """

        width: PositiveInt = 128
        layers: PositiveInt = 4
        heads: PositiveInt = 4

        @model_validator(mode="after")
        def _check(self) -> Self:
            if self.width % self.heads:
                raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
            return self

    options: Options

    @override
    def init_own(self, generator: torch.Generator) -> Tensors:
        """Draw the maps to tokens, the blocks, and the last layer."""
        width = self.options.width
        own = init_linear("transformer.input", self.model.outputs, width, generator)
        own |= init_linear("transformer.target", self.spec.outputs, width, generator)
        for block in range(self.options.layers):
            name = f"transformer.{block}"
            own |= init_norm(f"{name}.norm0", width) | init_norm(f"{name}.norm1", width)
            own |= init_linear(f"{name}.attention", width, 3 * width, generator)
            own |= init_linear(f"{name}.read", width, width, generator)
            own |= init_linear(f"{name}.hidden", width, 4 * width, generator)
            own |= init_linear(f"{name}.output", 4 * width, width, generator)
        own |= init_norm("transformer.norm", width)
        return own | init_linear("transformer.last", width, self.spec.outputs, generator)

    @override
    def condition(self, own: Tensors, support: Support) -> Tensors:
        """Return the support examples' tokens, and which are not padding."""
        tokens = linear(own, "transformer.input", support.features)
        return {
            TOKENS: tokens + linear(own, "transformer.target", support.targets),
            MASK: support.valid,
        }

    @override
    def answer(self, own: Tensors, known: Tensors, features: Tensor) -> Tensor:
        """Return the outputs at the query examples' tokens."""
        return self._run(own, known, features)

    @override
    def weigh(self, own: Tensors, known: Tensors, support: Support, features: Tensor) -> Tensor:
        """Return the attention on the support examples, averaged over heads and blocks."""
        seen: list[Tensor] = []
        self._run(own, known, features, seen)
        size = support.features.shape[1]
        weights = torch.stack(seen).mean(0)[:, size:, :size]
        return weights.view(len(features), self.options.heads, *weights.shape[1:]).mean(1)

    def _run(
        self, own: Tensors, known: Tensors, features: Tensor, seen: list[Tensor] | None = None
    ) -> Tensor:
        support = known[TOKENS]
        x = torch.cat([support, linear(own, "transformer.input", features)], dim=1)
        allowed = known[MASK].unsqueeze(1).expand(-1, x.shape[1], -1)
        for block in range(self.options.layers):
            name = f"transformer.{block}"
            x = x + self._attend(own, name, layer_norm(own, f"{name}.norm0", x), allowed, seen)
            hidden = linear(own, f"{name}.hidden", layer_norm(own, f"{name}.norm1", x))
            x = x + linear(own, f"{name}.output", F.gelu(hidden))
        x = layer_norm(own, "transformer.norm", x[:, support.shape[1] :])
        return linear(own, "transformer.last", x)

    def _attend(
        self, own: Tensors, name: str, x: Tensor, allowed: Tensor, seen: list[Tensor] | None
    ) -> Tensor:
        heads = self.options.heads
        tasks, count, width = x.shape

        def split(part: Tensor) -> Tensor:
            return part.view(tasks, count, heads, -1).transpose(1, 2).flatten(0, 1)

        query, key, value = map(split, linear(own, f"{name}.attention", x).chunk(3, dim=-1))
        read = attend(query, key, value, allowed.repeat_interleave(heads, 0), seen)
        joined = read.view(tasks, heads, count, -1).transpose(1, 2).reshape(tasks, count, width)
        return linear(own, f"{name}.read", joined)


def layer_norm(own: Tensors, name: str, x: Tensor) -> Tensor:
    """Normalise each token of ``x [T, B, width]`` (Ba et al. 2016), then scale and shift it."""
    normal = F.layer_norm(x, x.shape[-1:])
    return torch.addcmul(own[f"{name}.bias"].unsqueeze(1), normal, own[f"{name}.weight"].unsqueeze(1))
