"""Memory-augmented neural networks: learn by writing examples into an external memory."""

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.about import About
from fedmeta.learning.algorithm import Model, Tensors
from fedmeta.learning.embedding import Support
from fedmeta.learning.layers import init_linear, linear
from fedmeta.learning.memory import Access, MemoryNetwork, origins
from fedmeta.learning.sequence import SequenceAlgorithm
from fedmeta.tasks import TaskBatch, TaskSpec
from fedmeta.tasks.sequences import SHOWN

PREFIX = "memory."
HEAD = "memory_head"
LAST = "last"


class MANN(SequenceAlgorithm):
    """Memory-augmented neural networks: an LSTM with an external memory reads a task's examples.

    Santoro, Bartunov, Botvinick, Wierstra, Lillicrap 2016, "Meta-Learning with Memory-Augmented Neural
    Networks". Each example comes with the label of the one before (section 2), so that the network
    must keep it in memory until its label appears. Predictions are a linear layer of the LSTM's hidden
    state and of what its heads read. Addressing is described in `fedmeta.learning.memory`.

    With ``data.order = "sequence"`` tasks are the paper's: the loss is over all examples of a sequence.
    Otherwise the support set is read in its order, then each query example on its own; the loss is over
    the queries. The inputs are the model's embedding. The paper's are pixels: set ``model = "mlp"`` with
    ``hidden = []``.

    Raises:
        ConfigError: If tasks are neither classification with one label per example nor regression.
    """

    about = About(
        paper='Santoro, Bartunov, Botvinick, Wierstra, Lillicrap 2016, "Meta-Learning with '
        'Memory-Augmented Neural Networks"',
        year=2016,
        family="memory",
        learns="an embedding, and an LSTM that writes and reads a memory",
        sends="the gradient of all weights",
    )
    regression = True

    class Options(options.Options):
        """Options of memory-augmented networks; the defaults are those of Santoro et al. 2016.

        Attributes:
            addressing: How heads find their slots: ``lrua``: by content, writing to the least recently
                used; ``ntm``: by content and location, as in Graves et al. 2014.
            hidden: Units of the LSTM.
            slots: Slots of the memory.
            width: Numbers in a slot.
            reads: Heads that read; with ``lrua`` each also writes.
            usage_decay: Fraction of a slot's usage that remains after a step, with ``lrua``.
            scale: Factor of the cosines before the softmax, with ``lrua``; 1 in the paper. With a
                larger one, heads read fewer slots, and training needs fewer tasks.
            first: What a step does first, with ``lrua``: ``write``, as the paper's equations have it, or
                ``read``, so that no head finds what it has just written.
        """

        addressing: Literal["lrua", "ntm"] = "lrua"
        hidden: PositiveInt = 200
        slots: PositiveInt = 128
        width: PositiveInt = 40
        reads: PositiveInt = 4
        usage_decay: float = Field(default=0.99, ge=0, le=1)
        scale: float = Field(default=1.0, gt=0)
        first: Literal["write", "read"] = "write"

    options: Options

    def __init__(
        self, options: Options, model: Model, spec: TaskSpec, transductive: bool = True
    ) -> None:
        self.network = MemoryNetwork(
            inputs=model.outputs + spec.outputs,
            hidden=options.hidden,
            slots=options.slots,
            width=options.width,
            reads=options.reads,
            addressing=options.addressing,
            decay=options.usage_decay,
            scale=options.scale,
            read_first=options.first == "read",
        )
        super().__init__(options, model, spec, transductive)

    @override
    def init_own(self, generator: torch.Generator) -> Tensors:
        """Draw the weights of the network with the memory, and of the layer on top of it."""
        drawn = {PREFIX + key: value for key, value in self.network.init(generator).items()}
        return drawn | init_linear(HEAD, self.network.outputs, self.spec.outputs, generator)

    @override
    def read(self, own: Tensors, features: Tensor, shown: Tensor) -> Tensor:
        """Predict each example of a sequence."""
        x = torch.cat([features, shown], dim=-1).unsqueeze(1)
        outputs, _ = self.network.run(_network(own), x, self.network.begin(x))
        return linear(own, HEAD, outputs.squeeze(1))

    @override
    def condition(self, own: Tensors, support: Support) -> Tensors:
        """Return the network's state after the support set, and the label of its last example."""
        targets, mask = support.targets, support.mask
        x = _support_inputs(support)
        valid = None if mask is None else mask.unsqueeze(1)
        _, state = self.network.run(_network(own), x, self.network.begin(x), valid)
        last = targets[:, -1]
        if mask is not None:
            index = (mask.sum(1) - 1).view(-1, 1, 1).expand(-1, 1, targets.shape[2])
            last = targets.gather(1, index).squeeze(1)
        return {**state, LAST: last}

    @override
    def weigh(self, own: Tensors, known: Tensors, support: Support, features: Tensor) -> Tensor:
        """Return how much each query reads of each support example.

        The weight of a slot is divided among the examples in proportion to their shares of its content.
        What is missing from a sum of 1 is read from empty slots and, unless heads read first, from the
        query's own write.
        """
        before, after = self._trace(own, known, support, features)
        held = origins(before)
        total = held.sum(-1)
        if not self.network.read_first:
            held = held * after.kept[0].unsqueeze(-1)
            total = held.sum(-1) + after.writes[0].sum(2)
        parts = held / total.clamp(min=torch.finfo(held.dtype).tiny).unsqueeze(-1)
        return (after.reads[0].mean(2).unsqueeze(2) @ parts).squeeze(2)

    @override
    @torch.no_grad()
    def memory_access(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensor, Tensor]:
        """Return where the heads read and write; see `Algorithm.memory_access`."""
        _, own = self.split(state)
        features = self._features(state, tasks.query)
        if SHOWN in tasks.query:
            x = torch.cat([features, self._shown(tasks.query, features)], -1).unsqueeze(1)
            found = self.network.trace(_network(own), x, self.network.begin(x))
            reads, writes = (part.mean(3)[:, :, 0].transpose(0, 1) for part in found[:2])
            return reads, writes
        support = self._embedded(state, tasks.support)
        before, after = self._trace(own, self.condition(own, support), support, features)
        reads, writes = (
            torch.cat([one.mean(3)[:, :, 0].transpose(0, 1), other[0].mean(2)], dim=1)
            for one, other in zip(before[:2], after[:2], strict=True)
        )
        return reads, writes

    def _trace(
        self, own: Tensors, known: Tensors, support: Support, features: Tensor
    ) -> tuple[Access, Access]:
        """Return the access by support sets ``[S, T, 1, ...]`` and by queries ``[1, T, Q, ...]``."""
        x = _support_inputs(support)
        before = self.network.trace(_network(own), x, self.network.begin(x))
        return before, self.network.trace(_network(own), *self._query_inputs(known, features))

    @override
    def answer(self, own: Tensors, known: Tensors, features: Tensor) -> Tensor:
        """Read each query example on its own, after the support set."""
        outputs, _ = self.network.run(_network(own), *self._query_inputs(known, features))
        return linear(own, HEAD, outputs.squeeze(2))

    def _query_inputs(self, known: Tensors, features: Tensor) -> tuple[Tensor, Tensors]:
        """Return each query as a sequence of one ``[T, Q, 1, ...]``, and the state before it."""
        queries = features.shape[1]
        last = known[LAST].unsqueeze(1).expand(-1, queries, -1)
        x = torch.cat([features, last], dim=-1).unsqueeze(2)
        state = {
            key: value.expand(-1, queries, *value.shape[2:])
            for key, value in known.items()
            if key != LAST
        }
        return x, state


def _support_inputs(support: Support) -> Tensor:
    """Return the support examples, each with the label of the one before, ``[T, 1, S, ...]``."""
    targets = support.targets
    shown = torch.cat([torch.zeros_like(targets[:, :1]), targets[:, :-1]], dim=1)
    return torch.cat([support.features, shown], dim=-1).unsqueeze(1)


def _network(own: Tensors) -> Tensors:
    return {key.removeprefix(PREFIX): value for key, value in own.items() if key.startswith(PREFIX)}
