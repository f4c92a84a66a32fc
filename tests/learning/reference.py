"""The models again, as plain `torch.nn.Module`s of one task, to compare with."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from fedmeta.learning import Tensors
from tests.learning.cases import CASES, UserNet


class Conv4(nn.Module):
    def __init__(self, width: int, ways: int, strided: bool) -> None:
        super().__init__()
        self.strided = strided
        self.convolutions = nn.ModuleList(
            nn.Conv2d(
                1 if i == 0 else width, width, 3, stride=2 if strided else 1, padding=1, bias=False
            )
            for i in range(4)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, track_running_stats=False) for _ in range(4))
        self.head = nn.Linear(width, ways)

    def forward(self, x: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = torch.relu(norm(convolution(x)))
            if not self.strided and x.shape[-1] > 1:
                x = nn.functional.max_pool2d(x, 2)
        return self.head(x.mean((2, 3)) if self.strided else x.flatten(1))


class ResidualBlock(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(before, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width, track_running_stats=False),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width, track_running_stats=False),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width, track_running_stats=False),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width, track_running_stats=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        added = nn.functional.leaky_relu(self.layers(x) + self.shortcut(x), 0.1)
        return nn.functional.max_pool2d(added, 2)


class ResNet12(nn.Sequential):
    def __init__(self, widths: list[int], ways: int) -> None:
        blocks = [ResidualBlock(*pair) for pair in pairwise([1, *widths])]
        super().__init__(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], ways))


class LSTM(nn.Module):
    def __init__(self, embedding: nn.Module, sizes: tuple[int, int, int], outputs: int) -> None:
        super().__init__()
        inputs, hidden, layers = sizes
        self.embedding = embedding
        self.cells = nn.ModuleList(
            nn.LSTMCell(inputs if i == 0 else hidden, hidden) for i in range(layers)
        )
        for cell in self.cells:  # ours has one bias where cuDNN's formula has the sum of two
            del cell.bias_hh
            cell.register_buffer("bias_hh", torch.zeros(4 * hidden))
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        sequence = self.embedding(x)
        for cell in self.cells:
            state = None
            outputs = []
            for step in sequence.unbind(1):
                state = cell(step, state)
                outputs.append(state[0])
            sequence = torch.stack(outputs, 1)
        return self.head(sequence if isinstance(self.embedding, nn.Embedding) else sequence[:, -1])


class TDNN(nn.Module):
    def __init__(self, features: int, hidden: list[int], window: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv1d(*pair, kernel_size=window) for pair in pairwise([features, *hidden])
        )
        self.head = nn.Linear(hidden[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(x.mean(2))


class MPN(nn.Module):
    """Hu et al. 2020, appendix A, atom by atom and bond by bond, on `MOLECULE`'s rows."""

    def __init__(self, width: int, layers: int, outputs: int) -> None:
        super().__init__()
        self.nodes = nn.Parameter(torch.zeros(35, width))
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [nn.Linear(5, width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)]
            )
            for _ in range(layers)
        )
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.stack([self.molecule(rows) for rows in x.long().tolist()]))

    def molecule(self, rows: list[list[int]]) -> Tensor:
        # Element, neighbours, hydrogens, charge, aromatic, in a ring: 14 + 7 + 5 + 5 + 2 + 2 values.
        firsts = (0, 14, 21, 26, 31, 33)
        states = {
            place: sum(self.nodes[first + code] for first, code in zip(firsts, row[:6], strict=True))
            for place, row in enumerate(rows, 1)
            if row[0] > 0
        }
        for edges, hidden, out in self.layers:
            after = {}
            for place, own in states.items():
                row = rows[place - 1]
                summed = own + edges.bias
                for neighbour, bond in zip(row[6:12], row[12:], strict=True):
                    if neighbour > 0:
                        summed = summed + states[neighbour] + edges.weight[:, bond]
                after[place] = torch.relu(out(torch.relu(hidden(summed))))
            states = after
        return torch.stack(list(states.values())).mean(0)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 1))


def _image_mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 7), nn.Tanh(), nn.Linear(7, 3))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "sinusoid-mlp": _mlp,
    "image-mlp": _image_mlp,
    "conv4-stride": lambda: Conv4(4, 3, strided=True),
    "conv4-max": lambda: Conv4(4, 3, strided=False),
    "resnet12": lambda: ResNet12([2, 3], 3),
    "lstm": lambda: LSTM(nn.Embedding(7, 3), (3, 5, 2), 7),
    "lstm-features": lambda: LSTM(nn.Identity(), (3, 5, 2), 3),
    "tdnn": lambda: TDNN(3, [5, 4], 2, 3),
    "mpn": lambda: MPN(5, 2, 3),
    "user-module": lambda: UserNet(4),
}


def to_module(name: str, params: Tensors) -> nn.Module:
    """Return the reference module of case `name` with the weights of one task."""
    module = MODULES[name]().double()
    with torch.no_grad():
        for own, value in zip(module.parameters(), _translate(name, params).values(), strict=True):
            own.copy_(value)
    return module


def from_module(name: str, module_values: list[Tensor], like: Tensors) -> Tensors:
    """Return values in the module's order and shapes (weights or gradients) as ours are laid out."""
    positions = _translate(
        name, {key: _positions(value, i) for i, (key, value) in enumerate(like.items())}
    )
    result = {key: torch.empty_like(value) for key, value in like.items()}
    for value, position in zip(module_values, positions.values(), strict=True):
        key = list(like)[int(position.flatten()[0].item()) // 10**6]
        result[key].view(-1)[(position.flatten() % 10**6).long()] = value.flatten()
    return result


def _positions(value: Tensor, index: int) -> Tensor:
    return (torch.arange(value.numel()) + index * 10**6).view(value.shape)


def _translate(name: str, params: Tensors) -> Tensors:
    """Bring our tensors of one task to the shapes and the order of the module's parameters."""
    if name == "user-module":
        return dict(params)
    moved = {key: _layout(key, value) for key, value in params.items()}
    if CASES[name].model != "conv4":
        return moved
    order = [key for prefix in ("conv", "norm", "head") for key in moved if key.startswith(prefix)]
    return {key: moved[key] for key in order}


def _layout(key: str, value: Tensor) -> Tensor:
    if key.startswith("time") and value.dim() == 2:
        return value.view(-1, CASES["tdnn"].network["window"], value.shape[1]).permute(2, 0, 1)
    if ".shortcut.weight" in key:
        return value.T[:, :, None, None]
    if key.startswith("conv") or (".conv" in key and value.dim() == 2):
        return value.reshape(3, 3, -1, value.shape[1]).permute(3, 2, 0, 1)
    return value if value.dim() == 1 or key in {"embedding", "nodes"} else value.T
