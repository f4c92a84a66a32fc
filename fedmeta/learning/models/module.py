"""A user's own `torch.nn.Module` on the task axis."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from typing_extensions import override

from fedmeta.errors import ConfigError
from fedmeta.learning.base import Model, Tensors
from fedmeta.learning.models.norm import batch_norm
from fedmeta.tasks import TaskSpec


class ModuleModel(Model):
    """Runs a `torch.nn.Module`, task by task, each with its own weights.

    The module maps ``[B, *input]`` to ``[B, ..., outputs]``. Its weights start as its constructor draws
    them. Its batch norm takes its statistics from the batch, or from the support set.

    Args:
        kind: The module's class.
        network: The keyword arguments of its constructor.
        spec: The shape of the tasks.
        outputs: How many outputs it must have; None: any number, it is an embedding.

    Raises:
        ConfigError: If the module cannot be built or run, keeps running statistics, draws random numbers
            while it runs, or has the wrong number of outputs.
    """

    chunk_tasks = 8

    def __init__(
        self, kind: type[nn.Module], network: Mapping[str, Any], spec: TaskSpec, outputs: int | None
    ) -> None:
        self._kind = kind
        self._network = dict(network)
        self._module = self._build(seed=0)
        self._name = f"model '{kind.__module__}:{kind.__qualname__}'"
        self._norms = _adopt_batch_norm(self._name, self._module)
        self.batch_norm = bool(self._norms)
        self.outputs = self._probe(spec)
        if outputs is not None and self.outputs != outputs:
            raise ConfigError(f"{self._name} has {self.outputs} outputs but the task needs {outputs}")

    @override
    def init(self, generator: torch.Generator) -> Tensors:
        """Draw the weights by building the module anew under a seed from `generator`."""
        seed = int(torch.randint(2**62, (), generator=generator))
        module = self._build(seed)
        return {name: value.detach().clone() for name, value in module.named_parameters()}

    @override
    def forward(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensor:
        """Compute ``[T, B, ..., outputs]`` from ``x [T, B, *input]``."""
        for norm in self._norms:
            norm.stat_rows = stat_rows
        # unbind, and not indexing: the backward pass of an index fills a tensor as large as all tasks.
        weights = zip(*(value.unbind(0) for value in params.values()), strict=True)
        rows = [dict(zip(params, values, strict=True)) for values in weights]
        return torch.stack(
            [self._call(task, inputs) for task, inputs in zip(rows, x.unbind(0), strict=True)]
        )

    def _call(self, params: Tensors, x: Tensor) -> Tensor:
        dtype = next(iter(params.values())).dtype
        buffers = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in self._module.named_buffers()
        }
        result: Tensor = functional_call(self._module, {**buffers, **params}, (x,))
        return result

    def _build(self, seed: int) -> nn.Module:
        # Constructors draw from torch's global generator: lend it a seed, and give it back unchanged.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                return self._kind(**self._network)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                raise ConfigError(
                    f"model '{self._kind.__module__}:{self._kind.__qualname__}' cannot be built "
                    f"from 'network' ({reason})"
                ) from None

    def _probe(self, spec: TaskSpec) -> int:
        params = {name: value.detach() for name, value in self._module.named_parameters()}
        if not params:
            raise ConfigError(f"{self._name} has no parameters to learn")
        dtype = torch.int64 if spec.vocabulary else torch.float32
        try:
            with torch.no_grad():
                result = self._call(params, torch.zeros(2, *spec.input_shape, dtype=dtype))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ConfigError(
                f"{self._name} cannot read inputs of the shape {[2, *spec.input_shape]} ({reason})"
            ) from None
        if not isinstance(result, Tensor) or result.dim() < 2 or result.shape[0] != 2:
            raise ConfigError(f"{self._name} must return a tensor [batch, ..., outputs]")
        return int(result.shape[-1])


class _TaskBatchNorm(nn.Module):
    """Stands in for a module's batch norm and shares its parameters; knows which rows to count."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.stat_rows: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x [B, C, ...]``."""
        values = x.unsqueeze(-1).flatten(2).transpose(1, 2)
        rows = None if self.stat_rows is None else self.stat_rows * values.shape[1]
        ones = x.new_ones(1, x.shape[1])
        weight = ones if self.weight is None else self.weight.unsqueeze(0)
        bias = ones - 1 if self.bias is None else self.bias.unsqueeze(0)
        result = batch_norm(values.flatten(0, 1).unsqueeze(0), weight, bias, rows)
        return result.view_as(values).transpose(1, 2).reshape(x.shape)


def _adopt_batch_norm(name: str, module: nn.Module) -> list[_TaskBatchNorm]:
    """Replace the module's batch norms by ones that know the support rows.

    Raises:
        ConfigError: For running statistics, and for dropout.
    """
    adopted: list[_TaskBatchNorm] = []
    for path, part in list(module.named_modules()):
        if getattr(part, "running_mean", None) is not None:
            raise ConfigError(
                f"{name} keeps running statistics in '{path}', which would leak between tasks; "
                "set track_running_stats=False"
            )
        # Dropout is a module of its own, or a number that a recurrent or attention layer keeps.
        rate = part.p if isinstance(part, _DropoutNd) else getattr(part, "dropout", 0.0)
        if isinstance(rate, float) and rate > 0:
            raise ConfigError(f"{name} draws random numbers in '{path}'; set its dropout to 0")
        if isinstance(part, _BatchNorm):
            parent, _, child = path.rpartition(".")
            adopted.append(_TaskBatchNorm(part))
            setattr(module.get_submodule(parent), child, adopted[-1])
    return adopted
