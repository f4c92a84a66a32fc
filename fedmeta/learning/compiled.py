"""Compiles an algorithm's `task_updates`, once per shape of its inputs."""

import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from typing_extensions import override

from fedmeta.errors import ConfigError
from fedmeta.learning.algorithm import Algorithm, Tensors
from fedmeta.learning.delegating import DelegatingAlgorithm
from fedmeta.tasks import Examples, TaskBatch

Flat = Callable[..., list[Tensor]]
Layout = tuple[tuple[str, torch.Size, tuple[int, ...], torch.dtype, torch.device], ...]


class CompiledAlgorithm(DelegatingAlgorithm):
    """Computes another algorithm's `task_updates` with compiled code, and delegates the rest to it.

    The gradients inside `task_updates` are traced into one forward-only graph, so that second
    derivatives, which `torch.compile` itself refuses, are compiled too. Results are equal up to
    rounding. Each new shape of state or tasks takes about half a minute once, or less if it is in the
    compiler's disk cache.

    Raises:
        ConfigError: If there is no C++ compiler, or the algorithm cannot be traced.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        super().__init__(algorithm)
        self._compiled: dict[Layout, tuple[Flat, list[str]]] = {}
        _require_compiler()

    @override
    @torch.no_grad()
    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Return the algorithm's per-task pseudo-gradients and metrics."""
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

    @override
    def adapt(self, state: Tensors, support: Examples, steps: int) -> Tensors:
        """Adapt to each task's support set; see the algorithm."""
        return self._algorithm.adapt(state, support, steps)

    @override
    def predict(
        self, state: Tensors, adapted: Tensors, examples: Examples, transductive: bool | None = None
    ) -> Tensor:
        """Predict for a half of a batch; see the algorithm."""
        return self._algorithm.predict(state, adapted, examples, transductive)

    @override
    def trajectory(
        self, state: Tensors, support: Examples, steps: Sequence[int]
    ) -> Iterator[tuple[int, Tensors]]:
        """Yield ``(step, adapted)``; see the algorithm."""
        return self._algorithm.trajectory(state, support, steps)

    def _compile(self, keys: list[str], values: list[Tensor], like: TaskBatch) -> tuple[Flat, list[str]]:
        """Trace and compile for inputs laid out like `values`; also name the metrics in their order."""
        metrics: list[str] = []

        def flat(*inputs: Tensor) -> list[Tensor]:
            state = dict(zip(keys, inputs, strict=False))
            tasks = like.with_tensors(inputs[len(keys) :])
            updates, measured = self._algorithm.task_updates(state, tasks)
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
