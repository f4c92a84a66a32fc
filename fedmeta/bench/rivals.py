"""Rivals: MAML by cloning modules in a loop, and the networks that rivals train.

Networks are built on the meta device, where constructors draw no random numbers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedmeta.learning import Tensors
from fedmeta.tasks import TaskBatch

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Episode:
    """One second-order MAML meta-gradient to compute.

    Attributes:
        module: The network with the initial weights.
        loss: Mean loss of predictions and targets of one task.
        inner_lr: Step size of the inner steps.
        inner_steps: Number of inner steps.
        tasks: The meta-batch.
        second_order: Whether to differentiate through the inner gradients.
    """

    module: nn.Module
    loss: Loss
    inner_lr: float
    inner_steps: int
    tasks: TaskBatch
    second_order: bool = True

    def each(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Yield support inputs, support targets, query inputs and query targets, task by task."""
        tasks = self.tasks
        halves = (tasks.support, tasks.query)
        yield from zip(*(half[key] for half in halves for key in ("x", "y")), strict=True)


MetaGradient = Callable[[Episode], list[Tensor]]
"""Computes the meta-gradient averaged over the tasks, in order of ``module.parameters()``."""


def meta_gradient(episode: Episode) -> list[Tensor]:
    """Return the meta-gradient averaged over the tasks, in order of ``module.parameters()``.

    As learn2learn's MAML (Arnold et al. 2020): clone the module so that gradients flow back to the
    original, descend by replacing the clone's parameters, and differentiate the query loss.
    """
    initial = list(episode.module.parameters())
    total = [torch.zeros_like(parameter) for parameter in initial]
    for support_x, support_y, query_x, query_y in episode.each():
        learner = clone(episode.module)
        for _ in range(episode.inner_steps):
            loss = episode.loss(learner(support_x), support_y)
            gradients = torch.autograd.grad(
                loss, list(learner.parameters()), create_graph=episode.second_order
            )
            descend(learner, iter(gradients), episode.inner_lr)
        loss = episode.loss(learner(query_x), query_y)
        for sum_, gradient in zip(total, torch.autograd.grad(loss, initial), strict=True):
            sum_ += gradient
    return [sum_ / len(episode.tasks) for sum_ in total]


def clone(module: nn.Module) -> nn.Module:
    """Copy a module so that the copy's parameters are differentiable functions of the original's."""
    copy: nn.Module = object.__new__(type(module))
    copy.__dict__.update(module.__dict__)
    copy.__dict__["_parameters"] = {
        name: None if parameter is None else parameter.clone()
        for name, parameter in module._parameters.items()
    }
    copy.__dict__["_modules"] = {
        name: None if child is None else clone(child) for name, child in module._modules.items()
    }
    return copy


def descend(module: nn.Module, gradients: Iterator[Tensor], rate: float) -> None:
    """Replace each parameter by ``parameter - rate * gradient``, keeping the graph."""
    parameters: dict[str, Tensor | None] = module.__dict__["_parameters"]
    for name, parameter in parameters.items():
        if parameter is not None:
            parameters[name] = parameter - rate * next(gradients)
    for child in module.children():
        descend(child, gradients, rate)


class MeanPixel(nn.Module):
    """Average over the pixels of ``[B, C, H, W]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, C]``."""
        return x.mean((2, 3))


def mlp(state: Tensors) -> nn.Module:
    """Build a module with ReLUs from an `MLP` state; its parameters are in the same order."""
    weights = [value for key, value in state.items() if key.endswith("weight")]
    biases = [value for key, value in state.items() if key.endswith("bias")]
    layers: list[nn.Module] = []
    for weight, bias in zip(weights, biases, strict=True):
        layers += [_linear(weight, bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def prototype_gradient(episode: Episode) -> list[Tensor]:
    """Return the gradient of Prototypical Networks (Snell et al. 2017), averaged over the tasks.

    The module embeds examples; every class has equally many support examples, class by class in turn.
    """
    initial = list(episode.module.parameters())
    total = [torch.zeros_like(parameter) for parameter in initial]
    for support_x, support_y, query_x, query_y in episode.each():
        ways = int(support_y.max()) + 1
        embedded = episode.module(support_x)
        means = torch.stack([embedded[support_y == label].mean(0) for label in range(ways)])
        loss = episode.loss(-torch.cdist(episode.module(query_x), means).square(), query_y)
        for sum_, gradient in zip(total, torch.autograd.grad(loss, initial), strict=True):
            sum_ += gradient
    return [sum_ / len(episode.tasks) for sum_ in total]


def functional_gradient(episode: Episode) -> list[Tensor]:
    """Return the meta-gradient by `torch.func.functional_call` in a loop over the tasks."""
    names = [name for name, _ in episode.module.named_parameters()]
    initial: list[Tensor] = list(episode.module.parameters())
    total = [torch.zeros_like(parameter) for parameter in initial]

    def loss_at(values: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        named = dict(zip(names, values, strict=True))
        return episode.loss(functional_call(episode.module, named, x), y)

    for support_x, support_y, query_x, query_y in episode.each():
        values = initial
        for _ in range(episode.inner_steps):
            loss = loss_at(values, support_x, support_y)
            gradients = torch.autograd.grad(loss, values, create_graph=episode.second_order)
            pairs = zip(values, gradients, strict=True)
            values = [value - episode.inner_lr * gradient for value, gradient in pairs]
        slopes = torch.autograd.grad(loss_at(values, query_x, query_y), initial)
        for sum_, gradient in zip(total, slopes, strict=True):
            sum_ += gradient
    return [sum_ / len(episode.tasks) for sum_ in total]


class Characters(nn.Module):
    """An embedding, an LSTM and a linear head at every position, of tokens ``[B, L]``."""

    def __init__(self, state: Tensors) -> None:
        super().__init__()
        vocabulary, size = state["embedding"].shape
        hidden = state["lstm0.recurrent"].shape[0]
        self.embedding = nn.Embedding(vocabulary, size)
        self.lstm = nn.LSTM(size, hidden, batch_first=True)
        self.head = _linear(state["head.weight"], state["head.bias"])
        given = {
            "weight_ih_l0": state["lstm0.weight"].T,
            "weight_hh_l0": state["lstm0.recurrent"].T,
            "bias_ih_l0": state["lstm0.bias"],
            "bias_hh_l0": torch.zeros(4 * hidden),  # ours has one bias where PyTorch's is a sum of two
        }
        self.lstm.load_state_dict(given)
        self.embedding.load_state_dict({"weight": state["embedding"]})

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits ``[B, V, L]``, as PyTorch's cross-entropy reads them."""
        logits: Tensor = self.head(self.lstm(self.embedding(tokens))[0])
        return logits.transpose(1, 2)


def conv4(state: Tensors, pooled: bool = False) -> nn.Module:
    """Build a module from a `Conv4` state, for one-channel images ``[B, H, W]``.

    Without a head in the state it is an embedding.
    """
    layers: list[nn.Module] = [nn.Unflatten(1, (1, -1))]
    stride = 1 if pooled else 2
    for block in range(4):
        kernels = convolution_kernels(state[f"conv{block}.weight"])
        width, channels = kernels.shape[:2]
        convolution = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False, device="meta")
        convolution.weight = nn.Parameter(kernels)
        norm = nn.BatchNorm2d(width, track_running_stats=False, device="meta")
        norm.weight = nn.Parameter(state[f"norm{block}.weight"].clone())
        norm.bias = nn.Parameter(state[f"norm{block}.bias"].clone())
        layers += [convolution, norm, nn.ReLU(), *([nn.MaxPool2d(2)] if pooled else [])]
    head = [_linear(state["head.weight"], state["head.bias"])] if "head.weight" in state else []
    return nn.Sequential(*layers, nn.Flatten() if pooled else MeanPixel(), *head)


def as_module_parameter(key: str, value: Tensor) -> Tensor:
    """Convert a tensor of our state, or of its gradient, to the layout of the module's parameter."""
    if key.startswith("conv"):
        return convolution_kernels(value)
    return value.T.contiguous() if value.dim() == 2 else value.clone()


def convolution_kernels(weight: Tensor) -> Tensor:
    """Convert ``[9 * C, D]``, rows by kernel row, kernel column and channel, to ``[D, C, 3, 3]``."""
    return weight.view(3, 3, -1, weight.shape[1]).permute(3, 2, 0, 1).contiguous()


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[0], weight.shape[1], device="meta")
    layer.weight = nn.Parameter(as_module_parameter("weight", weight))
    layer.bias = nn.Parameter(bias.clone())
    return layer
