"""The layout of inputs that are graphs."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GraphShape:
    """The layout of a graph, ``[nodes, columns]``: a row of integers for each node, then rows of 0.

    A row holds the node's properties, each counted from 0; its neighbours, which are numbers of rows
    counted from 1, and 0 where there are fewer; and the type of the edge to each of them, counted from
    0. The first property is 0 in the rows after the last node, and nowhere else.

    Attributes:
        values: Number of values of each property, the first one's 0 included.
        neighbours: Most neighbours of a node.
        edges: Number of edge types.
    """

    values: tuple[int, ...]
    neighbours: int
    edges: int

    @property
    def columns(self) -> int:
        """Length of a row."""
        return len(self.values) + 2 * self.neighbours

    def holds(self, x: Tensor) -> bool:
        """Return whether every number of the graphs ``[..., nodes, columns]`` is in its range."""
        limits = self._limits(x.shape[-2]).to(x.device)
        return bool(((x >= 0) & (x < limits) & (x == x.floor())).all())

    def made_up(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw graphs of random nodes and edges, ``[..., nodes, columns]``, without rows of padding."""
        x = (torch.rand(shape, generator=generator) * self._limits(shape[-2])).floor()
        x[..., 0].clamp_(min=1)
        return x

    def _limits(self, nodes: int) -> Tensor:
        rows, kinds = [nodes + 1] * self.neighbours, [self.edges] * self.neighbours
        return torch.tensor([*self.values, *rows, *kinds])
