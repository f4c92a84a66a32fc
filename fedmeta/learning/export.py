"""Exports a model's weights in the layout of `torch.nn`, with the code that loads them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmeta.learning.algorithm import MODELS, Model, Tensors
from fedmeta.learning.models.conv4 import BLOCKS, Conv4
from fedmeta.learning.models.lstm import LSTM
from fedmeta.learning.models.mlp import MLP
from fedmeta.learning.models.tdnn import TDNN
from fedmeta.learning.module import ModuleModel
from fedmeta.options import parse_options
from fedmeta.tasks import TaskSpec

FILE = "model.safetensors"
"""Name of the weights' file in the code that loads it."""

_ACTIVATIONS = {"relu": "nn.ReLU()", "tanh": "nn.Tanh()", "sigmoid": "nn.Sigmoid()"}


@dataclass(frozen=True)
class Plain:
    """Weights in the layouts of `torch.nn`.

    Attributes:
        tensors: A `state_dict`, such as ``Linear`` weights ``[out, in]`` and ``Conv2d`` weights
            ``[out, in, 3, 3]``.
        code: Python code that builds the network, loads the tensors from `FILE` and calls it; None for
            other models written for the task axis, whose tensors keep their own names and shapes.
    """

    tensors: Tensors
    code: str | None


@dataclass(frozen=True)
class Network:
    """Description of a network, as plain values.

    Attributes:
        model: Its registered name or dotted path.
        options: Its options.
        spec: The shape of the tasks.
        outputs: Size of its head; None: an embedding without a head.
        built: The model, whose constants are exported with a `torch.nn.Module`; None: build a new one.
    """

    model: str
    options: Mapping[str, Any]
    spec: TaskSpec
    outputs: int | None
    built: Model | None = None


def to_plain(network: Network, weights: Mapping[str, Tensor], seen: Tensor | None = None) -> Plain:
    """Convert one task's weights, without a task axis, to the layout of `torch.nn`.

    Args:
        network: The network.
        weights: The tensors of its `Model.init`.
        seen: Inputs ``[B, *input]`` whose statistics become the running statistics of the batch norms of
            `conv4`, for evaluation mode; None: they use those of each batch.
    """
    part = MODELS.get(network.model)
    if issubclass(part, nn.Module):
        plain = _module(part, network, weights)
    elif part in _WRITERS:
        plain = _WRITERS[part](network, parse_options(part.Options, network.options), weights)
    else:
        plain = Plain(dict(weights), None)
    if part is Conv4 and seen is not None:
        plain = _with_statistics(plain, network, seen)
    return Plain(
        {
            key: value.detach().clone(memory_format=torch.contiguous_format)
            for key, value in plain.tensors.items()
        },
        plain.code,
    )


@dataclass
class _Sequential:
    """Builder of an `nn.Sequential`: code and tensors of its layers."""

    layers: list[str] = field(default_factory=list)
    tensors: Tensors = field(default_factory=dict)

    def add(self, code: str, **tensors: Tensor) -> None:
        self.tensors |= {f"{len(self.layers)}.{name}": value for name, value in tensors.items()}
        self.layers.append(code)

    def linear(self, weights: Mapping[str, Tensor], name: str) -> None:
        weight = weights[f"{name}.weight"].T
        code = f"nn.Linear({weight.shape[1]}, {weight.shape[0]})"
        self.add(code, weight=weight, bias=weights[f"{name}.bias"])


def _mlp(network: Network, options: Any, weights: Mapping[str, Tensor]) -> Plain:
    net = _Sequential()
    net.add("nn.Flatten()")
    for layer in range(len(options.hidden)):
        net.linear(weights, f"hidden{layer}")
        net.add(_ACTIVATIONS[options.activation])
    if network.outputs is not None:
        net.linear(weights, "head")
    build = ["model = nn.Sequential(", *(f"    {code}," for code in net.layers), ")"]
    return Plain(net.tensors, _code(build, network, net.tensors))


def _conv4(network: Network, options: Any, weights: Mapping[str, Tensor]) -> Plain:
    shape, strided = network.spec.input_shape, options.pooling == "stride"
    net = _Sequential()
    start = [] if len(shape) == 3 else [f"nn.Unflatten(1, (1, {shape[0]}))"]
    for code in start:
        net.add(code)
    for block in range(BLOCKS):
        net.add("convolution", weight=_kernel(weights[f"conv{block}.weight"]))
        net.add("norm", weight=weights[f"norm{block}.weight"], bias=weights[f"norm{block}.bias"])
        net.add("relu")
        if not strided:
            net.add("pool")
    end = ["nn.AdaptiveAvgPool2d(1)", "nn.Flatten()"] if strided else ["nn.Flatten()"]
    for code in end:
        net.add(code)
    if network.outputs is not None:
        net.linear(_channels_first(weights, options.width), "head")
        end.append(net.layers[-1])
    build = [
        f"layers = [{', '.join(start)}]",
        *_blocks(shape, options.width, strided),
        f"model = nn.Sequential(*layers, {', '.join(end)})",
    ]
    return Plain(net.tensors, _code(build, network, net.tensors))


def _blocks(shape: tuple[int, ...], width: int, strided: bool) -> list[str]:
    """Return the loop that makes the blocks."""
    channels = (shape[0] if len(shape) == 3 else 1, *[width] * (BLOCKS - 1))
    pairs = tuple(zip(channels, _windows(*shape[-2:]), strict=True))
    loop = f"for channels in {channels}:" if strided else f"for channels, window in {pairs}:"
    pool = [] if strided else ["    layers += [nn.MaxPool2d(window)]"]
    return [
        loop,
        f"    conv = nn.Conv2d(channels, {width}, 3, stride={1 + strided}, padding=1, bias=False)",
        f"    layers += [conv, nn.BatchNorm2d({width}, track_running_stats=False), nn.ReLU()]",
        *pool,
    ]


@torch.no_grad()
def _with_statistics(plain: Plain, network: Network, seen: Tensor) -> Plain:
    """Add the batch-norm statistics of a plain `conv4` for the inputs `seen`."""
    tensors, strided = dict(plain.tensors), network.options.get("pooling") != "max"
    images = seen if seen.dim() == 4 else seen.unsqueeze(1)
    kernels = [name for name, value in plain.tensors.items() if value.dim() == 4]
    for kernel, window in zip(kernels, _windows(*images.shape[-2:]), strict=True):
        images = F.conv2d(images, tensors[kernel], stride=1 + strided, padding=1)
        mean, variance = images.mean((0, 2, 3)), images.var((0, 2, 3), correction=0)
        norm = f"{int(kernel.partition('.')[0]) + 1}."
        tensors[norm + "running_mean"], tensors[norm + "running_var"] = mean, variance
        tensors[norm + "num_batches_tracked"] = torch.tensor(1)
        scale, shift = tensors[norm + "weight"], tensors[norm + "bias"]
        images = F.relu(F.batch_norm(images, mean, variance, scale, shift))
        images = images if strided else F.max_pool2d(images, window)
    code = (plain.code or "").replace(", track_running_stats=False", "")
    return Plain(tensors, code.replace("print(", "model.eval()\nprint("))


def _windows(height: int, width: int) -> list[tuple[int, int]]:
    """Return the pooling window of each block: 2x2, or 1 along a side of one pixel."""
    windows = []
    for _ in range(BLOCKS):
        windows.append((min(height, 2), min(width, 2)))
        height, width = max(height // 2, 1), max(width // 2, 1)
    return windows


def _kernel(weight: Tensor) -> Tensor:
    """Turn ``[9 * in, out]``, rows by kernel row, column and channel, into ``[out, in, 3, 3]``."""
    return weight.view(3, 3, -1, weight.shape[1]).permute(3, 2, 0, 1)


def _channels_first(weights: Mapping[str, Tensor], width: int) -> Tensors:
    """Reorder the head's rows from pixel-major to the channel-major order of `nn.Flatten`."""
    weight = weights["head.weight"]
    rows = weight.view(-1, width, weight.shape[1]).transpose(0, 1).reshape(weight.shape)
    return {"head.weight": rows, "head.bias": weights["head.bias"]}


def _lstm(network: Network, options: Any, weights: Mapping[str, Tensor]) -> Plain:
    tensors: Tensors = {}
    size, parts = network.spec.input_shape[-1], []
    # Features have no embedding, and one output, after the last position.
    inputs, end = "x", "[:, -1]"
    if vocabulary := network.spec.vocabulary:
        tensors["embedding.weight"] = weights["embedding"]
        size = options.embedding
        parts.append(f"embedding = nn.Embedding({vocabulary}, {size})")
        inputs, end = "self.embedding(x)", ""
    for layer in range(options.layers):
        bias = weights[f"lstm{layer}.bias"]
        tensors |= {
            f"lstm.weight_ih_l{layer}": weights[f"lstm{layer}.weight"].T,
            f"lstm.weight_hh_l{layer}": weights[f"lstm{layer}.recurrent"].T,
            f"lstm.bias_ih_l{layer}": bias,
            # Torch has two biases per gate; ours has one.
            f"lstm.bias_hh_l{layer}": torch.zeros_like(bias),
        }
    parts.append(f"lstm = nn.LSTM({size}, {options.hidden}, {options.layers}, batch_first=True)")
    result = f"self.lstm({inputs})[0]{end}"
    if network.outputs is not None:
        tensors |= {"head.weight": weights["head.weight"].T, "head.bias": weights["head.bias"]}
        parts.append(f"head = nn.Linear({options.hidden}, {network.outputs})")
        result = f"self.head({result})"
    return Plain(tensors, _code(_class(parts, result), network, tensors))


def _tdnn(network: Network, options: Any, weights: Mapping[str, Tensor]) -> Plain:
    tensors: Tensors = {}
    size, parts, result = network.spec.input_shape[-1], [], "x.mT"
    for layer, width in enumerate(options.hidden):
        weight = weights[f"time{layer}.weight"].view(size, options.window, width)
        tensors |= {
            f"time{layer}.weight": weight.permute(2, 0, 1),
            f"time{layer}.bias": weights[f"time{layer}.bias"],
        }
        parts.append(f"time{layer} = nn.Conv1d({size}, {width}, {options.window})")
        result, size = f"self.time{layer}({result}).relu()", width
    result += ".mean(2)"
    if network.outputs is not None:
        tensors |= {"head.weight": weights["head.weight"].T, "head.bias": weights["head.bias"]}
        parts.append(f"head = nn.Linear({size}, {network.outputs})")
        result = f"self.head({result})"
    return Plain(tensors, _code(_class(parts, result), network, tensors))


def _class(parts: list[str], result: str) -> list[str]:
    """Return the lines of a module with `parts`, whose output is `result`."""
    return [
        "class Network(nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        *(f"        self.{part}" for part in parts),
        "    def forward(self, x):",
        f"        return {result}",
        "model = Network()",
    ]


def _module(kind: type[nn.Module], network: Network, weights: Mapping[str, Tensor]) -> Plain:
    model = network.built
    if not isinstance(model, ModuleModel):
        model = ModuleModel(kind, network.options, network.spec, network.outputs)
    plain = model.to_state_dict(weights)
    arguments = ", ".join(f"{key}={value!r}" for key, value in network.options.items())
    build = [
        f"from {kind.__module__} import {kind.__qualname__}",
        f"model = {kind.__qualname__}({arguments})",
        *(_BATCH_STATISTICS if model.drops_running_statistics else []),
    ]
    return Plain(plain, _code(build, network, plain))


_BATCH_STATISTICS = [
    "# Its batch norms used the statistics of each batch, and no running ones.",
    "for part in model.modules():",
    "    if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training:",
    "        part.running_mean = part.running_var = part.num_batches_tracked = None",
    "        part.track_running_stats = False",
]


_WRITERS: dict[Any, Callable[[Network, Any, Mapping[str, Tensor]], Plain]] = {
    MLP: _mlp,
    Conv4: _conv4,
    LSTM: _lstm,
    TDNN: _tdnn,
}


def _code(build: list[str], network: Network, tensors: Tensors) -> str:
    double = any(value.dtype == torch.float64 for value in tensors.values())
    shape = ", ".join(str(side) for side in (2, *network.spec.input_shape))
    dtype = ", dtype=torch.long" if network.spec.vocabulary else ", dtype=torch.double" * double
    lines = [
        "import torch",
        "from safetensors.torch import load_file",
        "from torch import nn",
        "",
        *build,
        *(["model.double()"] if double else []),
        f'model.load_state_dict(load_file("{FILE}"))',
        f"print(model(torch.zeros({shape}{dtype})).shape)",
    ]
    return "\n".join(lines) + "\n"
