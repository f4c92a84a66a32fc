"""A user's own `torch.nn.Module` on the task axis."""

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized
from typing_extensions import override

from fedmeta.errors import ConfigError
from fedmeta.learning.algorithm import Model, Tensors
from fedmeta.learning.device import CPU
from fedmeta.learning.module_parts import TaskBatchNorm, replace_parts
from fedmeta.tasks import TaskSpec, torch_generator

_REAL = (torch.float32, torch.float64)


class ModuleModel(Model):
    """Runs a `torch.nn.Module` for each task with that task's weights.

    The module maps ``[B, *input]`` to ``[B, ..., outputs]``:

    - *parameters* that require gradients are learned; `init` draws them;
    - *constants* are all other tensors: frozen parameters and buffers, as the constructor sets them
      under the run's seed. They are the same for every task and client, and never sent;
    - batch norms in training mode take their statistics from the task's own batch, or from the support
      set, and keep no running ones.

    Each part of the module stays in the mode that its constructor sets. Attention uses the plain
    implementation, since the fused one has no second derivative; so does weight normalisation, whose
    second derivative is wrong in PyTorch. The module gets a copy of its input, which it may change.

    Args:
        kind: The module's class.
        network: The keyword arguments of its constructor.
        spec: The shape of the tasks.
        outputs: How many outputs it must have; None: any number, as an embedding.
        seed: The run's seed, from which constants are drawn as `init` draws weights.

    Raises:
        ConfigError: If the module cannot be built or run, has nothing to learn, has weights in half
            precision, uses dropout, or has the wrong number of outputs.
    """

    chunk_tasks = 8

    def __init__(
        self,
        kind: type[nn.Module],
        network: Mapping[str, Any],
        spec: TaskSpec,
        outputs: int | None,
        seed: int = 0,
    ) -> None:
        self.name = f"model '{kind.__module__}:{kind.__qualname__}'"
        self._kind = kind
        self._network = dict(network)
        self._spec = spec
        self._module = self._build(_draw_seed(torch_generator(seed, "init")))
        self.drops_running_statistics = replace_parts(self._module)
        self._norms = [part for part in self._module.modules() if isinstance(part, TaskBatchNorm)]
        self.batch_norm = bool(self._norms)
        self._require_sound_parts()
        self._constants = _constants(self._module)
        self._cast: dict[tuple[torch.dtype, torch.device], Tensors] = {}
        self.outputs = self._probe()
        if outputs is not None and self.outputs != outputs:
            raise ConfigError(f"{self.name} has {self.outputs} outputs but the task needs {outputs}")

    @property
    @override
    def constants(self) -> Tensors:
        """Frozen parameters and buffers, by name."""
        return self._constants

    @constants.setter
    def constants(self, values: Mapping[str, Tensor]) -> None:
        self._constants = dict(values)
        self._cast = {}

    @override
    def init(self, generator: torch.Generator) -> Tensors:
        """Draw the weights by building a new module under a seed from `generator`."""
        module = self._build(_draw_seed(generator))
        return {name: value.detach().clone() for name, value in _trainable(module)}

    @override
    def forward(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensor:
        """Compute ``[T, B, ..., outputs]`` from ``x [T, B, *input]``."""
        for norm in self._norms:
            norm.stat_rows = stat_rows
        # unbind, not indexing: the backward pass of an index allocates a tensor for all tasks.
        weights = zip(*(value.unbind(0) for value in params.values()), strict=True)
        like = next(iter(params.values()))
        constants = self._constants_as(like.dtype, like.device)
        versions = [value._version for value in constants.values()]
        with sdpa_kernel(SDPBackend.MATH):
            rows = [
                # A module may change its input in place, and the same examples are used again.
                self.call({**constants, **dict(zip(params, values, strict=True))}, inputs.clone())
                for values, inputs in zip(weights, x.unbind(0), strict=True)
            ]
        if versions != [value._version for value in constants.values()]:
            raise RuntimeError(f"{self.name} changed a buffer or frozen parameter in forward")
        return torch.stack(rows)

    @override
    def activations(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensors:
        """Return the outputs of the parts that have parameters and no parts of their own."""
        rows: list[Tensors] = []

        def keep(path: str, output: object) -> None:
            value = output[0] if isinstance(output, tuple) else output
            if isinstance(value, Tensor) and value.is_floating_point() and len(value) == x.shape[1]:
                rows[-1][path] = value

        with ExitStack() as hooks:
            for path, part in self._module.named_modules():
                if _is_layer(path, part):
                    hook = part.register_forward_hook(lambda _p, _i, out, at=path: keep(at, out))
                    hooks.callback(hook.remove)
            for task in range(len(x)):
                rows.append({})
                own = {key: value[task : task + 1] for key, value in params.items()}
                self.forward(own, x[task : task + 1], stat_rows)
        shared = [path for path in rows[0] if all(path in row for row in rows)]
        return {path: torch.stack([row[path] for row in rows]) for path in shared}

    def call(self, tensors: Tensors, x: Tensor) -> Tensor:
        """Run the module once with `tensors` as its parameters and buffers; it may write to them."""
        result: Tensor = functional_call(self._module, tensors, (x,))
        return result

    def path_of(self, part: nn.Module) -> str:
        """Return the path of a part of the module, such as ``blocks.0``; empty for the whole module."""
        return next((path for path, other in self._module.named_modules() if other is part), "")

    def rebuilt(self, seed: int) -> nn.Module:
        """Build a new module from a seed, with the same parts replaced as in `forward`."""
        module = self._build(seed)
        replace_parts(module)
        return module

    def _build(self, seed: int) -> nn.Module:
        """Build the module; its constructor's random draws come from `seed`."""
        with lent_seed(seed):
            try:
                module = self._kind(**self._network)
            except Exception as error:
                raise ConfigError(
                    f"{self.name} cannot be built from 'network' ({_first(error)})"
                ) from None
            if any(isinstance(part, LazyModuleMixin) for part in module.modules()):
                self._fill_in(module)
        return module

    def to_state_dict(self, params: Mapping[str, Tensor]) -> Tensors:
        """Return the module's `state_dict` with the given weights, which have no task axis."""
        like = next(iter(params.values()))
        known = {**self._constants_as(like.dtype, like.device), **params}
        # A shared tensor has several names in a state_dict, but one among the parameters.
        tensors = [*self._module.named_parameters(), *self._module.named_buffers()]
        name_of = {id(value): name for name, value in tensors}
        held = self._module.state_dict(keep_vars=True)
        return {key: known[name_of[id(value)]] for key, value in held.items()}

    def _constants_as(self, dtype: torch.dtype, device: torch.device) -> Tensors:
        if (dtype, device) not in self._cast:
            self._cast[dtype, device] = {
                # A private copy, safe from writes elsewhere.
                name: v.detach().to(device, dtype if v.is_floating_point() else v.dtype, copy=True)
                for name, v in self._constants.items()
            }
        return self._cast[dtype, device]

    def _inputs(self) -> Tensor:
        dtype = torch.int64 if self._spec.vocabulary else torch.float32
        return torch.zeros(2, *self._spec.input_shape, dtype=dtype)

    def _fill_in(self, module: nn.Module) -> None:
        """Initialize lazy layers, which infer their sizes from a batch."""
        try:
            with torch.no_grad():
                module(self._inputs())
        except Exception as error:
            raise ConfigError(f"{self.name} {self._cannot_read(error)}") from None

    def _cannot_read(self, error: Exception) -> str:
        return f"cannot read inputs of shape {[2, *self._spec.input_shape]} ({_first(error)})"

    def _require_sound_parts(self) -> None:
        for path, part in self._module.named_modules():
            # Dropout is a module of its own, or a number that a recurrent or attention layer keeps.
            rate = part.p if isinstance(part, _DropoutNd) else getattr(part, "dropout", 0.0)
            if part.training and isinstance(rate, float) and rate > 0:
                raise ConfigError(f"{self.name} draws random numbers in '{path}'; set its dropout to 0")
        for name, value in [*self._module.named_parameters(), *self._module.named_buffers()]:
            if value.is_complex() or (value.is_floating_point() and value.dtype not in _REAL):
                kind = str(value.dtype).removeprefix("torch.")
                raise ConfigError(
                    f"{self.name} has '{name}' in {kind}: keep it in float32, and cast in forward "
                    "(torch.autocast) if need be"
                )
        if not list(_trainable(self._module)):
            frozen = any(True for _ in self._module.parameters())
            raise ConfigError(
                f"{self.name} has no parameters to learn"
                + (": all of them are frozen" if frozen else "")
            )

    def _probe(self) -> int:
        params = {name: value.detach().float() for name, value in _trainable(self._module)}
        try:
            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), lent_seed(0):
                # Clones, so that writes to its constants are discarded.
                constants = {k: v.clone() for k, v in self._constants_as(torch.float32, CPU).items()}
                result: Any = self.call({**constants, **params}, self._inputs())
        except Exception as error:
            raise ConfigError(f"{self.name} {self._cannot_read(error)}") from None
        if not isinstance(result, Tensor):
            raise ConfigError(
                f"{self.name} returns a {type(result).__name__}: it must return only its predictions, "
                "a tensor [batch, ..., outputs]"
            )
        if result.dim() < 2 or result.shape[0] != 2:
            raise ConfigError(
                f"{self.name} returns shape {list(result.shape)} for a batch of 2: "
                "it must return a tensor [batch, ..., outputs]"
            )
        if result.dtype != torch.float32:
            kind = str(result.dtype).removeprefix("torch.")
            raise ConfigError(
                f"{self.name} returns {kind}: its predictions must be float32; add .float()"
            )
        return int(result.shape[-1])


@contextmanager
def lent_seed(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python in the block, then restore them."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy)
            random.setstate(python)


def _draw_seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator))


def _is_layer(path: str, part: nn.Module) -> bool:
    """Return whether a part has parameters of its own, and is not what makes another part's weights."""
    own = not any(True for _ in part.children()) or is_parametrized(part)
    return own and "parametrizations" not in path and any(True for _ in part.parameters())


def _trainable(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, value) for name, value in module.named_parameters() if value.requires_grad)


def _constants(module: nn.Module) -> Tensors:
    frozen = {name: v.detach() for name, v in module.named_parameters() if not v.requires_grad}
    return frozen | dict(module.named_buffers())


def _first(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
