"""Rival: MAML on sinusoids by JAX, ``jit`` of ``vmap`` of ``grad``, in a process of its own on one core.

Run as a script, this file is the other process: it imports JAX and NumPy, and nothing of fedmeta.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fedmeta.bench.rivals import Episode

CALLS = 10
"""Meta-gradients for each message to the process, so that messages take no share of the time."""
_ONE_CORE = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}


class JaxRival:
    """A process that computes one fixed meta-gradient on request.

    Attributes:
        gradients: The meta-gradient, averaged over the tasks, in order of ``module.parameters()``.
        first_call: Seconds of the first call, which compiles.
    """

    def __init__(self, process: subprocess.Popen[str], answer: Path) -> None:
        self._process = process
        self.first_call = self._read()
        with np.load(answer) as saved:
            self.gradients: list[NDArray[Any]] = list(saved.values())

    def __call__(self) -> None:
        """Compute `CALLS` meta-gradients, and wait for them; `RunError` if the process has ended."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._read()

    def _read(self) -> float:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return float(line)
        # Not at the top: the other process imports nothing of fedmeta.
        from fedmeta.errors import RunError

        raise RunError("bench: the JAX process has ended; see its messages above")


def is_installed() -> bool:
    """Whether JAX is installed: ``pip install 'fedmeta[bench]'``."""
    return find_spec("jax") is not None


@contextmanager
def jax_rival(episode: "Episode") -> Iterator[JaxRival]:
    """Start a process for an episode whose module is layers with ReLUs between, and a squared error.

    Raises:
        RunError: If the process ends, such as by an error in JAX.
    """
    arrays = [parameter.detach().numpy() for parameter in episode.module.parameters()]
    halves = (episode.tasks.support, episode.tasks.query)
    arrays += [half[key].numpy() for half in halves for key in ("x", "y")]
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder, "question.npz"), Path(folder, "answer.npz")
        np.savez(question, *arrays)
        command = [sys.executable, __file__, str(question), str(answer)]
        command += [str(episode.inner_lr), str(episode.inner_steps)]
        pipe = subprocess.PIPE
        environment = {**os.environ, **_ONE_CORE}
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
            try:
                yield JaxRival(process, answer)
            finally:
                assert process.stdin is not None
                process.stdin.close()


def _meta_gradient(inner_lr: float, inner_steps: int) -> Any:
    """Return a compiled function of weights and tasks: MAML (Finn et al. 2017), second order."""
    import jax
    import jax.numpy as jnp

    def loss(layers: list[Any], x: Any, y: Any) -> Any:
        for weight, bias in zip(layers[:-2:2], layers[1:-2:2], strict=True):
            x = jax.nn.relu(x @ weight.T + bias)
        return jnp.mean((x @ layers[-2].T + layers[-1] - y) ** 2)

    def query_loss(
        initial: list[Any], support_x: Any, support_y: Any, query_x: Any, query_y: Any
    ) -> Any:
        layers = initial
        for _ in range(inner_steps):
            slopes = jax.grad(loss)(layers, support_x, support_y)
            layers = [value - inner_lr * slope for value, slope in zip(layers, slopes, strict=True)]
        return loss(layers, query_x, query_y)

    def mean_loss(initial: list[Any], *tasks: Any) -> Any:
        return jax.vmap(query_loss, in_axes=(None, 0, 0, 0, 0))(initial, *tasks).mean()

    return jax.jit(jax.grad(mean_loss))


def _serve(question: str, answer: str, inner_lr: str, inner_steps: str) -> None:
    """Compute, save and time a meta-gradient, and compute it again for each line on stdin."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import jax

    with np.load(question) as saved:
        arrays = list(saved.values())
    if arrays[0].dtype == np.float64:
        jax.config.update("jax_enable_x64", True)
    *weights, sx, sy, qx, qy = (jax.numpy.asarray(array) for array in arrays)
    gradient = _meta_gradient(float(inner_lr), int(inner_steps))
    began = time.perf_counter()
    found = jax.block_until_ready(gradient(weights, sx, sy, qx, qy))
    first_call = time.perf_counter() - began
    np.savez(answer, *map(np.asarray, found))
    print(first_call, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        for _ in range(CALLS):
            jax.block_until_ready(gradient(weights, sx, sy, qx, qy))
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
