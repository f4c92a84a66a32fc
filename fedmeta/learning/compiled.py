"""Compiles an algorithm's `task_updates`, once per shape of its inputs."""

import os
import shutil
import sys
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from fedmeta.errors import ConfigError
from fedmeta.learning.algorithm import Algorithm, Tensors
from fedmeta.tasks import TaskBatch

Flat = Callable[..., list[Tensor]]
Updates = Callable[[Tensors, TaskBatch], tuple[Tensors, Tensors]]
Layout = tuple[tuple[str, torch.Size, tuple[int, ...], torch.dtype, torch.device], ...]


def compile_updates(algorithm: Algorithm) -> Algorithm:
    """Give an algorithm compiled code for its `task_updates`; all else stays as it is.

    Raises:
        ConfigError: If there is no C++ compiler.
    """
    _require_compiler()
    # Instances may shadow methods, but mypy has no type for it.
    vars(algorithm)["task_updates"] = _CompiledUpdates(algorithm.task_updates)
    return algorithm


class _CompiledUpdates:
    """Computes an algorithm's `task_updates` with compiled code.

    The gradients inside are traced into one forward-only graph, so that second derivatives, which
    `torch.compile` itself refuses, are compiled too. Results are equal up to rounding. Each new shape of
    state or tasks takes about half a minute once, or less if it is in the compiler's disk cache.

    Args:
        eager: The algorithm's own method.
    """

    def __init__(self, eager: Updates) -> None:
        self._eager = eager
        self._compiled: dict[Layout, tuple[Flat, list[str]]] = {}

    @torch.no_grad()
    def __call__(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Return per-task pseudo-gradients and metrics.

        Raises:
            ConfigError: If the method cannot be traced or compiled.
        """
        inputs = {**state, **{f"@{name}": tensor for name, tensor in tasks.tensors()}}
        values = list(inputs.values())
        layout = tuple((key, v.shape, v.stride(), v.dtype, v.device) for key, v in inputs.items())
        if layout not in self._compiled:
            self._compiled[layout] = self._compile(list(state), values, tasks)
        function, metrics = self._compiled[layout]
        results = function(*values)
        return dict(zip(state, results, strict=False)), dict(
            zip(metrics, results[len(state) :], strict=True)
        )

    def _compile(self, keys: list[str], values: list[Tensor], like: TaskBatch) -> tuple[Flat, list[str]]:
        """Trace and compile for inputs laid out like `values`; also name the metrics in their order."""
        metrics: list[str] = []

        def flat(*inputs: Tensor) -> list[Tensor]:
            state = dict(zip(keys, inputs, strict=False))
            tasks = like.with_tensors(inputs[len(keys) :])
            updates, measured = self._eager(state, tasks)
            metrics[:] = measured
            return [*(updates[key] for key in keys), *measured.values()]

        try:
            with warnings.catch_warnings():
                # The compiler imports parts of torch that use deprecated parts of torch.
                warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
                graph = make_fx(flat, tracing_mode="fake")(*values)
                function: Flat = torch.compile(graph, dynamic=False)
                function(*values)
        except Exception as error:
            # The tracer and the compiler raise many types; all mean that this model cannot be compiled.
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ConfigError(
                f"compile: the learner cannot be compiled here ({reason}); set compile = false"
            ) from None
        return function, metrics


def _require_compiler() -> None:
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise ConfigError(
            f"compile: no C++ compiler '{compiler}' found; install one, or set compile = false"
        )
