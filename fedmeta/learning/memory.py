"""An LSTM with an external memory that it reads and writes, on the task axis."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fedmeta.learning.algorithm import Tensors
from fedmeta.learning.layers import RecurrentWeight, init_lstm, linear, lstm_cell, uniform

Addressing = Literal["lrua", "ntm"]

EPS = 1e-8
"""Added to squared lengths, so that the cosine with an empty slot is 0."""
BLANK = 1e-6
"""What a slot of a Neural Turing Machine holds before anything is written, as in Collier, Beel 2018,
"Implementing Neural Turing Machines"."""
SHIFTS = 3
"""Shifts of a head: one slot back, none, one forward."""


class Layers(NamedTuple):
    """The layers that each step goes through.

    Attributes:
        recurrent: From the hidden state, and what was read, to the gates of the LSTM.
        heads: From the hidden state to the heads' controls.
        bias: The bias of `heads`, ``[T, B, ...]``.
    """

    recurrent: RecurrentWeight
    heads: RecurrentWeight
    bias: Tensor


@dataclass(frozen=True)
class MemoryNetwork:
    """A controller with a memory of slots, which reads and writes once for each input.

    ``lrua``: Santoro, Bartunov, Botvinick, Wierstra, Lillicrap 2016, "Meta-Learning with
    Memory-Augmented Neural Networks", section 3: each of the heads writes its key where it read last or
    to a slot that was used least, then reads the slots that resemble its key, or reads first. The
    controller does not see what was read.

    ``ntm``: Graves, Wayne, Danihelka 2014, "Neural Turing Machines", section 3: a head that erases and
    adds, and heads that read; each addresses by content, interpolates with its last location, shifts
    and sharpens. The controller sees what was read last.

    Attributes:
        inputs: Size of an input.
        hidden: Units of the LSTM.
        slots: Slots of the memory.
        width: Numbers in a slot.
        reads: Heads that read.
        addressing: How heads find their slots.
        decay: Fraction of a slot's usage that remains after a step (``lrua``).
        scale: Factor of the cosines before the softmax (``lrua``).
        read_first: Whether a step reads before it writes (``lrua``).
    """

    inputs: int
    hidden: int
    slots: int
    width: int
    reads: int
    addressing: Addressing = "lrua"
    decay: float = 0.99
    scale: float = 1.0
    read_first: bool = False

    @property
    def outputs(self) -> int:
        """Size of an output: the LSTM's hidden state and what was read."""
        return self.hidden + self.reads * self.width

    def init(self, generator: torch.Generator) -> Tensors:
        """Draw the weights of the LSTM and of the layer that controls the heads.

        The layer is Glorot-uniform (Glorot, Bengio 2010, equation 16), without bias: a shared bias
        makes all keys point the same way, so that no head can tell slots apart.
        """
        found = self.reads * self.width if self.addressing == "ntm" else 0
        said = sum(self._sizes)
        bound = math.sqrt(6 / (self.hidden + said))
        return {
            **init_lstm("controller", self.inputs, self.hidden, generator, read=found),
            "heads.weight": uniform((self.hidden, said), bound, generator),
            "heads.bias": torch.zeros(said),
        }

    def begin(self, like: Tensor) -> Tensors:
        """Return the state before the first of the inputs ``like [T, B, ...]``, ``[T, B, ...]`` each."""
        rows = like.shape[:2]
        state = {
            "hidden": like.new_zeros(*rows, self.hidden),
            "cell": like.new_zeros(*rows, self.hidden),
        }
        memory = like.new_zeros(*rows, self.slots, self.width)
        if self.addressing == "lrua":
            reading = like.new_zeros(*rows, self.reads, self.slots)
            usage = like.new_zeros(*rows, self.slots)
            return {**state, "memory": memory, "reading": reading, "usage": usage}
        places = like.new_zeros(*rows, self.reads + 1, self.slots)
        places[..., 0] = 1.0
        found = like.new_zeros(*rows, self.reads * self.width)
        return {**state, "memory": memory + BLANK, "places": places, "found": found}

    def run(
        self, params: Tensors, x: Tensor, state: Tensors, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensors]:
        """Process sequences step by step; each row has its own memory.

        Args:
            params: The tensors of `init`, ``[T, ...]``.
            x: ``[T, B, L, inputs]``, B sequences of each task.
            state: Where they start, ``[T, B, ...]``.
            mask: ``[T, B, L]``: False at padding, where the state does not change; None: no padding.

        Returns:
            The outputs ``[T, B, L, outputs]``, and the state after the last.
        """
        outputs = []
        for output, after, _ in self._steps(params, x, state, mask):
            outputs.append(output)
            state = after
        return torch.stack(outputs, dim=2), state

    def trace(self, params: Tensors, x: Tensor, state: Tensors) -> "Access":
        """Return where the heads read and write; see `run`. All have an axis of the L steps in front."""
        found = [access for _, _, access in self._steps(params, x, state, None)]
        return Access(*(torch.stack(part) for part in zip(*found, strict=True)))

    def _steps(
        self, params: Tensors, x: Tensor, state: Tensors, mask: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensors, "Access"]]:
        """Yield each step's output, the state after it, and its access to the memory."""
        tasks, rows, length = x.shape[:3]
        into = linear(params, "controller", x.flatten(1, 2)).view(tasks, rows, length, -1)
        step = self._step_lrua if self.addressing == "lrua" else self._step_ntm
        layers = Layers(
            RecurrentWeight(params["controller.recurrent"]),
            RecurrentWeight(params["heads.weight"]),
            params["heads.bias"].unsqueeze(1).expand(-1, rows, -1),
        )
        for index, gates in enumerate(into.unbind(2)):
            output, after, access = step(layers, gates, state)
            state = after if mask is None else _where(mask[:, :, index], after, state)
            yield output, state, access

    @property
    def _sizes(self) -> list[int]:
        """Sizes of the heads' controls."""
        if self.addressing == "lrua":
            return [self.reads * self.width, self.reads]
        heads = self.reads + 1
        return [heads * self.width, heads, heads, heads * SHIFTS, heads, self.width, self.width]

    def _step_lrua(
        self, layers: Layers, gates: Tensor, state: Tensors
    ) -> tuple[Tensor, Tensors, "Access"]:
        hidden, cell = lstm_cell(layers.recurrent(gates, state["hidden"]), state["cell"])
        key, gate = torch.split(layers.heads(layers.bias, hidden), self._sizes, dim=-1)
        key = torch.tanh(key).view(*key.shape[:-1], self.reads, self.width)
        slots = Slots(state["memory"], state["reading"], state["usage"])
        heads = LRUAHeads(key, torch.sigmoid(gate).unsqueeze(-1))
        slots, found, access = least_recently_used(
            slots, heads, self.decay, self.scale, read_first=self.read_first
        )
        after = {"hidden": hidden, "cell": cell, **slots._asdict()}
        return torch.cat([hidden, found.flatten(2)], dim=-1), after, access

    def _step_ntm(
        self, layers: Layers, gates: Tensor, state: Tensors
    ) -> tuple[Tensor, Tensors, "Access"]:
        recurring = torch.cat([state["hidden"], state["found"]], dim=-1)
        hidden, cell = lstm_cell(layers.recurrent(gates, recurring), state["cell"])
        *said, erase, add = torch.split(layers.heads(layers.bias, hidden), self._sizes, dim=-1)
        places = address(state["memory"], state["places"], Heads.of(said, self.reads + 1))
        writing = places[:, :, :1].mT
        erased = torch.sigmoid(erase).unsqueeze(2)
        memory = state["memory"] * (1 - writing * erased)
        memory = memory + writing * add.unsqueeze(2)
        found = (places[:, :, 1:] @ memory).flatten(2)
        kept = 1 - writing.detach().squeeze(3) * erased.detach().mean(-1)
        access = Access(places[:, :, 1:].detach(), places[:, :, :1].detach(), kept)
        after = {"hidden": hidden, "cell": cell, "memory": memory, "places": places, "found": found}
        return torch.cat([hidden, found], dim=-1), after, access


def _where(mask: Tensor, one: Tensors, other: Tensors) -> Tensors:
    """Choose rows of one or the other state by ``mask [T, B]``."""
    return {
        key: torch.where(mask.view(*mask.shape, *[1] * (value.dim() - 2)), value, other[key])
        for key, value in one.items()
    }


class Slots(NamedTuple):
    """A memory with least recently used access.

    Attributes:
        memory: ``[T, B, slots, width]``.
        reading: Where each head read last, ``[T, B, heads, slots]``.
        usage: How much each slot was used lately, ``[T, B, slots]``.
    """

    memory: Tensor
    reading: Tensor
    usage: Tensor


class LRUAHeads(NamedTuple):
    """Controls of the heads of a memory with least recently used access.

    Attributes:
        key: ``[T, B, heads, width]``.
        gate: Fraction that is written to where the head read last, ``[T, B, heads, 1]``.
    """

    key: Tensor
    gate: Tensor


class Access(NamedTuple):
    """Where the heads read and write in a step, without a graph.

    Attributes:
        reads: The weight of each slot in what each head reads, ``[T, B, heads, slots]``.
        writes: The weight with which each head writes to each slot, ``[T, B, heads, slots]``.
        kept: The part of a slot's content that a step leaves before it writes, ``[T, B, slots]``.
    """

    reads: Tensor
    writes: Tensor
    kept: Tensor


def origins(access: Access) -> Tensor:
    """Return which steps' writes each slot holds after the last step, ``[T, B, slots, L]``.

    Args:
        access: With an axis of the L steps in front, see `MemoryNetwork.trace`.
    """
    steps = len(access.kept)
    held = access.kept.new_zeros(*access.kept.shape[1:], steps)
    for step in range(steps):
        held = held * access.kept[step].unsqueeze(-1)
        held[..., step] += access.writes[step].sum(2)
    return held


def least_recently_used(
    slots: Slots, heads: LRUAHeads, decay: float, scale: float, *, read_first: bool = False
) -> tuple[Slots, Tensor, "Access"]:
    """Write and read once (Santoro et al. 2016, equations 2 to 8).

    Head i writes to a slot of its own, the i-th least used; in the paper all heads share the least used
    slots. The least used slots are emptied before the write.

    Args:
        slots: The memory before.
        heads: The heads' controls.
        decay: Fraction of the usage that remains.
        scale: Factor of the cosines, 1 in the paper.
        read_first: Read what was there before this step. Otherwise each head finds what it has just
            written, which is most like its key.

    Returns:
        The memory after; what each head read, ``[T, B, heads, width]``; and where.
    """
    memory, reading, usage = slots
    key, gate = heads
    with torch.no_grad():
        # Stable, so that slots of equal usage are taken in the same order on every device.
        order = usage.argsort(dim=-1, stable=True)[..., : key.shape[2]]
        least = F.one_hot(order, usage.shape[-1]).to(memory.dtype)
        kept = (1 - least.sum(2)).unsqueeze(-1)
    writing = gate * reading + (1 - gate) * least
    written = memory * kept + writing.mT @ key
    seen = memory if read_first else written
    reading = (scale * cosines(key, seen)).softmax(-1)
    # Usage only orders the slots, and an order has no derivative.
    usage = decay * usage + (reading + writing).detach().sum(2)
    access = Access(reading.detach(), writing.detach(), kept.squeeze(-1))
    return Slots(written, reading, usage), reading @ seen, access


class Heads(NamedTuple):
    """Controls of the H heads of a Neural Turing Machine.

    Attributes:
        key: ``[T, B, H, width]``.
        strength: Above 0, ``[T, B, H, 1]``.
        gate: Between 0 and 1, ``[T, B, H, 1]``.
        shift: A distribution over one slot back, none and one forward, ``[T, B, H, 3]``.
        sharpness: At least 1, ``[T, B, H, 1]``.
    """

    key: Tensor
    strength: Tensor
    gate: Tensor
    shift: Tensor
    sharpness: Tensor

    @staticmethod
    def of(said: Sequence[Tensor], heads: int) -> "Heads":
        """Map a layer's outputs ``[T, B, ...]`` to the ranges of the controls."""
        key, strength, gate, shift, sharpness = (part.view(*part.shape[:-1], heads, -1) for part in said)
        return Heads(
            key,
            F.softplus(strength),
            torch.sigmoid(gate),
            shift.softmax(-1),
            1 + F.softplus(sharpness),
        )


def address(memory: Tensor, places: Tensor, heads: Heads) -> Tensor:
    """Return where each head attends, ``[T, B, H, slots]`` (Graves et al. 2014, equations 5 to 9).

    Args:
        memory: ``[T, B, slots, width]``.
        places: Where each head attended, ``[T, B, H, slots]``.
        heads: Their controls.
    """
    content = (heads.strength * cosines(heads.key, memory)).softmax(-1)
    mixed = torch.lerp(places, content, heads.gate)
    back, stay, on = torch.split(heads.shift, 1, dim=-1)
    moved = back * mixed.roll(-1, -1) + stay * mixed + on * mixed.roll(1, -1)
    sharp = (moved + EPS) ** heads.sharpness
    return sharp / sharp.sum(-1, keepdim=True)


def cosines(key: Tensor, memory: Tensor) -> Tensor:
    """Return the cosine of ``key [..., H, width]`` and each of ``memory [..., slots, width]``."""
    lengths = torch.rsqrt(key.square().sum(-1, keepdim=True) + EPS)
    slots = torch.rsqrt(memory.square().sum(-1) + EPS).unsqueeze(-2)
    return (key @ memory.mT) * lengths * slots
