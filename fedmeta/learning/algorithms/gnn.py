"""Graph neural network: labels propagate from the support examples to a query example."""

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.about import About
from fedmeta.errors import DataError
from fedmeta.learning.algorithm import Tensors
from fedmeta.learning.embedding import EmbeddingAlgorithm, Support
from fedmeta.learning.layers import init_linear, init_norm, linear
from fedmeta.learning.models.norm import batch_norm

NODES = "nodes"
WIDTHS = (2, 2, 1, 1)
"""Widths of an adjacency's layers, in units of ``width``."""
GRAPHS = 32
"""Most graphs to compute at once, as their pairs of nodes take much memory."""


class GNN(EmbeddingAlgorithm):
    """Few-shot graph network: one graph per query example, with the support examples as its other nodes.

    Garcia, Bruna 2018, "Few-Shot Learning with Graph Neural Networks". A node is an embedding joined
    with its one-hot label; the query's label is uniform (section 4.1). Each layer computes an
    adjacency ``A_ij = softmax_j MLP(|x_i - x_j|)``, ``j`` other than ``i`` (equation 3), and appends to
    each node the convolution ``rho([x, A x] theta)`` (equation 2); the last one is the query's logits.
    Depth, widths and batch norm follow the authors' code for mini-ImageNet.

    Batch norm takes its statistics from one query's graph, so that a prediction does not depend on other
    query examples. Labels have fixed inputs and outputs: a task has at most ``spec.outputs`` ways.

    Raises:
        ConfigError: If tasks are not classification with one label per example.
    """

    about = About(
        paper='Garcia, Bruna 2018, "Few-Shot Learning with Graph Neural Networks"',
        year=2018,
        family="graph",
        learns="an embedding and a network that propagates labels on a graph",
        sends="the query gradient of all weights",
    )
    any_ways = False

    class Options(options.Options):
        """Options of the graph network.

        Attributes:
            layers: Graph convolutions before the last one.
            width: Units of an adjacency's layers; the first two have twice as many, and a convolution
                appends half as many features.
        """

        layers: PositiveInt = 2
        width: int = Field(default=96, ge=2)

    options: Options

    @override
    def init_own(self, generator: torch.Generator) -> Tensors:
        """Draw the adjacencies' and convolutions' weights; batch norms scale by 1 and shift by 0."""
        size = self.model.outputs + self.spec.outputs
        own: Tensors = {}
        for layer in range(self.options.layers + 1):
            inputs = size
            for index, units in enumerate(WIDTHS):
                width = units * self.options.width
                own |= init_linear(f"gnn.adjacency{layer}.{index}", inputs, width, generator)
                own |= init_norm(f"gnn.adjacency{layer}.norm{index}", width)
                inputs = width
            own |= init_linear(f"gnn.adjacency{layer}.{len(WIDTHS)}", inputs, 1, generator)
            last = layer == self.options.layers
            width = self.spec.outputs if last else self.options.width // 2
            own |= init_linear(f"gnn.convolution{layer}", 2 * size, width, generator)
            own |= {} if last else init_norm(f"gnn.convolution{layer}.norm", width)
            size += width
        return own

    @override
    def condition(self, own: Tensors, support: Support) -> Tensors:
        """Return the nodes of the support examples, ``[T, S, D + ways]``.

        Raises:
            DataError: If a support set is padded.
        """
        if support.mask is not None:
            raise DataError(
                "algorithm 'gnn' needs support sets of equal size: padding would enter the statistics "
                "of its batch norm"
            )
        return {NODES: torch.cat([support.features, support.targets], -1)}

    @override
    def answer(self, own: Tensors, known: Tensors, features: Tensor) -> Tensor:
        """Return the last convolution at the query's node of each graph."""
        parts = torch.split(features, GRAPHS, dim=1)
        return torch.cat([self._propagate(own, known[NODES], part) for part in parts], dim=1)

    @override
    def weigh(self, own: Tensors, known: Tensors, support: Support, features: Tensor) -> Tensor:
        """Return the weights of the query node's neighbours, averaged over the layers."""
        parts = []
        for part in torch.split(features, GRAPHS, dim=1):
            seen: list[Tensor] = []
            self._propagate(own, known[NODES], part, seen)
            parts.append(torch.stack(seen).mean(0))
        return torch.cat(parts, dim=1)

    def _propagate(
        self, own: Tensors, known: Tensor, features: Tensor, rows: list[Tensor] | None = None
    ) -> Tensor:
        """Return the query nodes' logits; `rows` gets their weights for each layer, ``[T, Q, S]``."""
        ways = self.spec.outputs
        query = F.pad(features, (0, ways), value=1 / ways).unsqueeze(2)
        support = known.unsqueeze(1).expand(-1, features.shape[1], -1, -1)
        nodes = torch.cat([support, query], dim=2)
        for layer in range(self.options.layers + 1):
            weights = adjacency(own, f"gnn.adjacency{layer}", nodes)
            if rows is not None:
                rows.append(weights[:, :, -1, :-1])
            seen = weights @ nodes
            if layer == self.options.layers:
                break
            made = normalised(own, f"gnn.convolution{layer}", torch.cat([nodes, seen], -1))
            nodes = torch.cat([nodes, made], -1)
        last = torch.cat([nodes, seen], -1)[:, :, -1]
        return linear(own, f"gnn.convolution{layer}", last)


def adjacency(own: Tensors, name: str, nodes: Tensor) -> Tensor:
    """Return the weights ``[T, Q, N, N]`` of each node's neighbours in graphs ``[T, Q, N, D]``."""
    count = nodes.shape[2]
    # Each pair once, as the difference's absolute value is symmetric.
    one, other = torch.triu_indices(count, count, 1, device=nodes.device)
    pairs = (nodes.index_select(2, one) - nodes.index_select(2, other)).abs()
    for index in range(len(WIDTHS)):
        pairs = normalised(own, f"{name}.{index}", pairs, f"{name}.norm{index}")
    scores = linear(own, f"{name}.{len(WIDTHS)}", pairs.flatten(1, 2)).view(pairs.shape[:3])
    place = torch.zeros(count, count, dtype=torch.long, device=nodes.device)
    place[one, other] = place[other, one] = torch.arange(len(one), device=nodes.device)
    square = scores.index_select(2, place.flatten()).view(*scores.shape[:2], count, count)
    itself = torch.eye(count, dtype=torch.bool, device=nodes.device)
    return square.masked_fill(itself, -torch.inf).softmax(-1)


def normalised(own: Tensors, name: str, x: Tensor, norm: str | None = None) -> Tensor:
    """Apply a linear layer, batch norm over each graph, and leaky ReLU to ``x [T, Q, N, D]``."""
    made = linear(own, name, x.flatten(1, 2)).view(*x.shape[:3], -1)
    weight, bias = (
        own[f"{norm or name + '.norm'}.{key}"].repeat_interleave(x.shape[1], 0)
        for key in ("weight", "bias")
    )
    return F.leaky_relu(batch_norm(made.flatten(0, 1), weight, bias).view_as(made))
