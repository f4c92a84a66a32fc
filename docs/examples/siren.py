"""A sine network, as a plain module and on the task axis."""

import math
from typing import Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from fedmeta import options
from fedmeta.errors import ConfigError
from fedmeta.learning import Model, Tensors
from fedmeta.tasks import TaskSpec


class Siren(nn.Module):
    """Linear layers with sine activations, for a single input and output.

    Sitzmann et al. 2020, "Implicit Neural Representations with Periodic Activation Functions",
    section 3.2: ``sin(w0 (W x + b))`` with ``W`` uniform in ``±1/in`` in the first layer and in
    ``±sqrt(6/in)/w0`` after it.
    """

    def __init__(self, width: int = 32, w0: float = 3.0) -> None:
        super().__init__()
        self.first = nn.Linear(1, width)
        self.second = nn.Linear(width, width)
        self.head = nn.Linear(width, 1)
        self.w0 = w0
        bound = math.sqrt(6 / width) / w0
        nn.init.uniform_(self.first.weight, -1.0, 1.0)
        nn.init.uniform_(self.second.weight, -bound, bound)
        nn.init.uniform_(self.head.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Compute ``[B, 1]`` from ``x [B, 1]``."""
        hidden = torch.sin(self.w0 * self.first(x))
        prediction: Tensor = self.head(torch.sin(self.w0 * self.second(hidden)))
        return prediction


class TaskSiren(Model):
    """The same network for all tasks at once, each with its own weights; see `Siren`."""

    class Options(options.Options):
        """Options of the network.

        Attributes:
            width: Units of a hidden layer.
            w0: Frequency of the sines.
        """

        width: PositiveInt = 32
        w0: float = Field(default=3.0, gt=0)

    chunk_tasks = 64
    batch_norm = False

    def __init__(self, options: Any, spec: TaskSpec, outputs: int | None) -> None:
        if spec.vocabulary or spec.input_shape != (1,):
            raise ConfigError(f"model 'TaskSiren' reads one number, not inputs of {spec.input_shape}")
        self._options = options
        self._head = outputs
        self.outputs = options.width if outputs is None else outputs

    @override
    def init(self, generator: torch.Generator) -> Tensors:
        """Draw weights ``[in, out]`` and biases ``[out]`` of every layer."""
        width = self._options.width
        bound = math.sqrt(6 / width) / self._options.w0
        layers = {"first": (1, width, 1.0), "second": (width, width, bound)}
        if self._head is not None:
            layers["head"] = (width, self._head, bound)
        params: Tensors = {}
        for name, (rows, columns, reach) in layers.items():
            params[f"{name}.weight"] = _uniform((rows, columns), reach, generator)
            params[f"{name}.bias"] = _uniform((columns,), 1 / math.sqrt(rows), generator)
        return params

    @override
    def forward(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensor:
        """Compute ``[T, B, outputs]`` from ``x [T, B, 1]``; `stat_rows` has no effect."""
        hidden = torch.sin(self._options.w0 * _linear(params, "first", x))
        hidden = torch.sin(self._options.w0 * _linear(params, "second", hidden))
        return hidden if self._head is None else _linear(params, "head", hidden)


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def _linear(params: Tensors, name: str, x: Tensor) -> Tensor:
    # One matrix product for all tasks: x [T, B, in] @ weight [T, in, out] + bias [T, 1, out].
    return torch.baddbmm(params[f"{name}.bias"].unsqueeze(1), x, params[f"{name}.weight"])
