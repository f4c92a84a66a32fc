"""The network with a memory, compared with loops written from the equations of the papers."""

import math
from itertools import count

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmeta.learning import Tensors, expand_state
from fedmeta.learning.memory import BLANK, Addressing, MemoryNetwork
from fedmeta.tasks import torch_generator

Values = NDArray[np.float64]


def network(addressing: Addressing, slots: int = 6, read_first: bool = False) -> MemoryNetwork:
    return MemoryNetwork(
        inputs=3,
        hidden=7,
        slots=slots,
        width=4,
        reads=2,
        addressing=addressing,
        scale=3.0,
        read_first=read_first,
    )


def drawn(net: MemoryNetwork, tasks: int, seed: int = 0) -> Tensors:
    generator = torch_generator(seed, "weights")
    return {
        key: value.double() + 0.5 * torch.randn(value.shape, generator=generator).double()
        for key, value in expand_state(net.init(generator), tasks).items()
    }


def controller(weights: Tensors, read: int = 0) -> nn.LSTMCell:
    """The LSTM of one task, with what was read beside the input."""
    weight, recurrent = weights["controller.weight"], weights["controller.recurrent"]
    hidden = len(recurrent) - read
    cell = nn.LSTMCell(len(weight) + read, hidden).double()
    with torch.no_grad():
        cell.weight_ih.copy_(torch.cat([weight, recurrent[hidden:]]).T)
        cell.weight_hh.copy_(recurrent[:hidden].T)
        cell.bias_ih.copy_(weights["controller.bias"])
        cell.bias_hh.zero_()
    return cell


def cosine(one: Values, other: Values) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def softmax(values: Values) -> Values:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def lrua(net: MemoryNetwork, weights: Tensors, x: Tensor) -> Values:
    """Santoro et al. 2016, section 3.2, for one sequence ``[L, inputs]``, slot by slot."""
    cell, state = controller(weights), None
    memory = np.zeros((net.slots, net.width))
    reading, usage = np.zeros((net.reads, net.slots)), np.zeros(net.slots)
    outputs = []
    for step in x:
        state = cell(step.unsqueeze(0), state)
        hidden = state[0].detach()[0].numpy()
        said = hidden @ weights["heads.weight"].numpy() + weights["heads.bias"].numpy()
        keys = np.tanh(said[: net.reads * net.width]).reshape(net.reads, net.width)
        least = sorted(range(net.slots), key=lambda i, usage=usage: (usage[i], i))[: net.reads]
        writing = np.zeros((net.reads, net.slots))
        for head in range(net.reads):
            alpha = sigmoid(said[net.reads * net.width + head])
            for i in range(net.slots):  # equation 7
                writing[head, i] = alpha * reading[head, i] + (1 - alpha) * (i == least[head])
        before = memory.copy()
        memory[least] = 0.0
        for i in range(net.slots):  # equation 8
            memory[i] += sum(writing[head, i] * keys[head] for head in range(net.reads))
        seen = before if net.read_first else memory
        found = []
        for head in range(net.reads):  # equations 2 to 4
            alike = [cosine(keys[head], slot) if slot.any() else 0.0 for slot in seen]
            reading[head] = softmax(net.scale * np.array(alike))
            found.append(sum(reading[head, i] * seen[i] for i in range(net.slots)))
        usage = net.decay * usage + reading.sum(0) + writing.sum(0)  # equation 5
        outputs.append(np.concatenate([hidden, *found]))
    return np.stack(outputs)


def ntm(net: MemoryNetwork, weights: Tensors, x: Tensor) -> Values:
    """Graves et al. 2014, sections 3.1 to 3.3, for one sequence ``[L, inputs]``; head 0 writes."""
    heads, width, slots = net.reads + 1, net.width, net.slots
    cell, state = controller(weights, net.reads * width), None
    memory, found = np.full((slots, width), BLANK), np.zeros(net.reads * width)
    places = np.zeros((heads, slots))
    places[:, 0] = 1.0
    outputs = []
    for step in x:
        state = cell(torch.cat([step, torch.from_numpy(found)]).unsqueeze(0), state)
        hidden = state[0].detach()[0].numpy()
        said = hidden @ weights["heads.weight"].numpy() + weights["heads.bias"].numpy()
        sizes = [heads * width, heads, heads, heads * 3, heads, width]
        key, beta, gate, shift, sharp, erase, add = np.split(said, np.cumsum(sizes))
        for h in range(heads):
            own = key[h * width : (h + 1) * width]
            alike = np.array([softplus(beta[h]) * cosine(own, slot) for slot in memory])
            mixed = sigmoid(gate[h]) * softmax(alike) + (1 - sigmoid(gate[h])) * places[h]
            moves = softmax(shift[3 * h : 3 * h + 3])
            moved = np.zeros(slots)
            for i in range(slots):  # equation 8
                moved[i] = sum(mixed[(i - by) % slots] * moves[by + 1] for by in (-1, 0, 1))
            powers = moved ** (1 + softplus(sharp[h]))
            places[h] = powers / powers.sum()
        for i in range(slots):  # equations 3 and 4
            memory[i] = memory[i] * (1 - places[0, i] / (1 + np.exp(-erase))) + places[0, i] * add
        found = np.concatenate([places[h] @ memory for h in range(1, heads)])
        outputs.append(np.concatenate([hidden, found]))
    return np.stack(outputs)


@pytest.mark.parametrize(("addressing", "read_first"), [("lrua", False), ("lrua", True), ("ntm", False)])
def test_outputs_are_those_of_the_papers_equations(addressing: Addressing, read_first: bool) -> None:
    """Ten steps of two heads on six slots, so that slots are used again; two tasks, three rows each."""
    net = network(addressing, read_first=read_first)
    weights, x = drawn(net, 2), torch.randn(2, 3, 10, 3, generator=torch_generator(1)).double()
    outputs, _ = net.run(weights, x, net.begin(x))
    for task in range(2):
        own = {key: value[task] for key, value in weights.items()}
        for row in range(3):
            expected = (lrua if addressing == "lrua" else ntm)(net, own, x[task, row])
            np.testing.assert_allclose(outputs[task, row].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("addressing", ["lrua", "ntm"])
def test_a_sequence_may_be_read_in_two_parts_with_gaps(addressing: Addressing) -> None:
    net = network(addressing)
    weights, x = drawn(net, 2), torch.randn(2, 1, 7, 3, generator=torch_generator(1)).double()
    whole, last = net.run(weights, x, net.begin(x))
    mask = torch.tensor([True, True, True, True, False, False]).expand(2, 1, 6)
    _, middle = net.run(weights, x[:, :, :6], net.begin(x), mask)
    rest, same = net.run(weights, x[:, :, 4:], middle)
    torch.testing.assert_close(rest, whole[:, :, 4:])
    for key, value in last.items():
        torch.testing.assert_close(same[key], value)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_neural_turing_machine_learns_to_copy_sequences_of_up_to_20() -> None:
    """Graves et al. 2014, section 4.1: 8 random bits a step, then an end mark, then the same again.

    Below 0.01 of a bit wrong; guessing has a half wrong.
    """
    net = MemoryNetwork(inputs=9, hidden=64, slots=32, width=16, reads=1, addressing="ntm")
    generator = torch_generator(0, "copy")
    params = net.init(generator)
    params["out"] = 0.1 * torch.randn(net.outputs, 8, generator=generator)
    params = {key: value.unsqueeze(0).requires_grad_() for key, value in params.items()}
    optimizer = torch.optim.Adam(params.values(), lr=3e-3)

    def copied(rows: int, length: int) -> tuple[Tensor, Tensor]:
        bits = torch.randint(2, (1, rows, length, 8), generator=generator).float()
        x = torch.zeros(1, rows, 2 * length + 1, 9)
        x[:, :, :length, :8], x[:, :, length, 8] = bits, 1.0
        outputs, _ = net.run(params, x, net.begin(x))
        return outputs[:, :, length + 1 :] @ params["out"].unsqueeze(1), bits

    for step in count():
        length = int(torch.randint(1, 21, (), generator=generator))
        said, bits = copied(8, length)
        loss = F.binary_cross_entropy_with_logits(said, bits)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(params.values(), 10.0)
        optimizer.step()
        if step % 50 == 0:
            with torch.no_grad():
                said, bits = copied(32, 20)
            wrong = float(((said > 0) != (bits > 0.5)).float().mean())
            if wrong < 0.01:
                return
        assert step < 4000, f"{wrong:.3f} of the bits are wrong"
