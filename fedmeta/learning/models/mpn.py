"""A message-passing network: graph convolutions on the task axis."""

from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

import torch
from pydantic import PositiveInt
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.errors import ConfigError
from fedmeta.learning.algorithm import Model, Tensors
from fedmeta.learning.layers import last_output, linear, uniform
from fedmeta.tasks import TaskSpec

BLOCK = 32
"""Graphs of a task at once: those of a test are thousands, and leave the processor's cache.

Measured for 6,000 graphs of 64 rows, width 64, 3 layers: 0.8 s in blocks of 16 or 32, 1.5 s in blocks of
64 to 256, 6 s in one.
"""


class _Graphs(NamedTuple):
    """Graphs as matrices.

    Attributes:
        nodes: Properties, one-hot and side by side, ``[T, B * N, values]``.
        neighbours: How often a node (row) has another (column) as a neighbour, ``[T * B, N, N]``.
        edges: Edges of each type at a node, ``[T, B * N, types]``.
        share: Weight of each row in the mean over a graph's nodes, 0 for padding, ``[T * B, 1, N]``.
    """

    nodes: Tensor
    neighbours: Tensor
    edges: Tensor
    share: Tensor


class MPN(Model):
    """A graph isomorphism network with edge types, the mean over nodes, then a linear head.

    Each layer computes ``h_v <- ReLU(MLP(sum_u h_u + sum_e h_e))``, where ``u`` is the node ``v`` itself
    or a neighbour, ``e`` the edge to it, and ``h_e`` learned for each layer and type of edge; a node's
    edge to itself has a type of its own. The perceptron has a hidden layer of twice the width.

    Hu et al. 2020, "Strategies for Pre-training Graph Neural Networks", appendix A, after Xu, Hu,
    Leskovec, Jegelka 2019, "How Powerful are Graph Neural Networks?", equation 4.1 with epsilon = 0. Guo
    et al. 2021 meta-learn this network with ``width = 300, layers = 5``. Batch norm, dropout and
    pretraining are left out.

    Weights start uniform in ``±sqrt(6 / (in + out))`` (Glorot, Bengio 2010, "Understanding the
    Difficulty of Training Deep Feedforward Neural Networks", equation 16), biases at 0: without batch
    norm, smaller weights make all graphs look alike.

    Raises:
        ConfigError: If the tasks' inputs are not graphs.
    """

    class Options(options.Options):
        """Options of the message-passing network.

        Attributes:
            width: Size of a node's state.
            layers: Number of layers: how many edges far a node sees.
        """

        width: PositiveInt = 64
        layers: PositiveInt = 3

    # A task's few dozen graphs are thousands of rows.
    chunk_tasks = 1
    batch_norm = False
    reads_graphs = True

    def __init__(self, options: Options, spec: TaskSpec, outputs: int | None) -> None:
        if spec.graph is None:
            raise ConfigError(
                "model 'mpn' reads graphs but the task's inputs are "
                f"{'tokens' if spec.vocabulary else 'other numbers'}; molecules are graphs with "
                "data.features = 'graph'"
            )
        self._options, self._spec, self._graph = options, spec, spec.graph
        self._head = outputs
        self.outputs = options.width if outputs is None else outputs

    @override
    def init(self, generator: torch.Generator) -> Tensors:
        """Draw ``nodes [values, width]``, ``layer<i>.edges``, ``.hidden`` and ``.out``, and the head.

        The bias of ``.edges`` is the embedding of a node's edge to itself.
        """
        width, graph = self._options.width, self._graph
        sizes = {}
        for layer in range(self._options.layers):
            sizes[f"layer{layer}.edges"] = (graph.edges, width)
            sizes[f"layer{layer}.hidden"] = (width, 2 * width)
            sizes[f"layer{layer}.out"] = (2 * width, width)
        if self._head is not None:
            sizes["head"] = (width, self._head)
        params = {"nodes": _glorot(sum(graph.values), width, generator)}
        for name, (fan_in, fan_out) in sizes.items():
            params[f"{name}.weight"] = _glorot(fan_in, fan_out, generator)
            params[f"{name}.bias"] = torch.zeros(fan_out)
        return params

    @override
    def body(self) -> Model:
        """Return the layers and the mean."""
        return MPN(self._options, self._spec, None)

    @override
    def forward(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensor:
        """Compute ``[T, B, outputs]`` from ``x [T, B, N, columns]``; `stat_rows` has no effect."""
        mean = torch.cat([self._embed(params, block) for block in torch.split(x, BLOCK, 1)], 1)
        return mean if self._head is None else linear(params, "head", mean)

    @override
    def activations(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensors:
        """Return the output of each layer, ``layer<i>``, rows of padding included, and of the head."""
        layers = self._layers(params, self._read(x))
        found = {name: value.view(*x.shape[:3], -1) for name, value in layers}
        return found if self._head is None else {**found, "head": self.forward(params, x)}

    def _embed(self, params: Tensors, x: Tensor) -> Tensor:
        graphs = self._read(x)
        nodes = last_output(self._layers(params, graphs)).view(*graphs.neighbours.shape[:2], -1)
        return torch.bmm(graphs.share, nodes).view(*x.shape[:2], -1)

    def _layers(self, params: Tensors, graphs: _Graphs) -> Iterator[tuple[str, Tensor]]:
        """Yield the states of the nodes after each layer, ``[T, B * N, width]``."""
        sides = (*graphs.neighbours.shape[:2], -1)
        states = torch.bmm(graphs.nodes, params["nodes"])
        for layer in range(self._options.layers):
            name = f"layer{layer}"
            own = states + linear(params, f"{name}.edges", graphs.edges)
            summed = torch.baddbmm(own.view(sides), graphs.neighbours, states.view(sides))
            hidden = torch.relu(linear(params, f"{name}.hidden", summed.view(states.shape)))
            states = torch.relu(linear(params, f"{name}.out", hidden))
            yield name, states

    def _read(self, x: Tensor) -> _Graphs:
        tasks, batch, nodes, _ = x.shape
        graph = self._graph
        sizes = [len(graph.values), graph.neighbours, graph.neighbours]
        codes, rows, kinds = torch.split(x.long(), sizes, -1)
        firsts = torch.tensor([0, *accumulate(graph.values[:-1])]).to(x.device)
        linked, present = (rows > 0).to(x.dtype), (codes[..., 0] > 0).to(x.dtype)
        one_hot = x.new_zeros(tasks, batch * nodes, sum(graph.values))
        # Column 0 is for no neighbour.
        neighbours = x.new_zeros(tasks * batch, nodes, nodes + 1)
        edges = x.new_zeros(tasks, batch * nodes, graph.edges)
        count = present.sum(-1, keepdim=True).clamp(min=1)
        return _Graphs(
            one_hot.scatter(2, (codes + firsts).flatten(1, 2), 1.0),
            neighbours.scatter_add(2, rows.flatten(0, 1), linked.flatten(0, 1))[:, :, 1:],
            edges.scatter_add(2, kinds.flatten(1, 2), linked.flatten(1, 2)),
            (present / count).view(tasks * batch, 1, nodes),
        )


def _glorot(fan_in: int, fan_out: int, generator: torch.Generator) -> Tensor:
    return uniform((fan_in, fan_out), (6 / (fan_in + fan_out)) ** 0.5, generator)
