"""The device to compute on: the CPU, or a GPU with deterministic settings."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from fedmeta.errors import ConfigError
from fedmeta.learning.algorithm import Model, Tensors
from fedmeta.options import nearest

CPU: torch.device = torch.device("cpu")
LARGER_CHUNKS = 16
"""Factor between the best chunk of tasks for a GPU and for a CPU's caches."""


def choose_device(asked: str, here: bool = True) -> str:
    """Resolve ``auto`` to a device; return any other choice unchanged.

    ``auto`` is ``cuda`` where clients are computed in this process and PyTorch finds a CUDA device.

    Args:
        asked: ``auto``, ``cpu`` or ``cuda``.
        here: Whether clients are computed in this process.
    """
    if asked != "auto":
        return asked
    return "cuda" if here and torch.cuda.is_available() else "cpu"


def use_device(name: str) -> torch.device:
    """Return a device, with deterministic settings so that the same work gives the same bits.

    Of several CUDA devices it is the first one in ``CUDA_VISIBLE_DEVICES``. For ``cuda`` the settings
    apply to the whole process.

    Raises:
        ConfigError: If this machine has no such device.
    """
    if name == "cpu":
        return CPU
    if name != "cuda":
        raise ConfigError(f"device: unknown device '{name}': {nearest(name, ('auto', 'cpu', 'cuda'))}")
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"is built for CUDA {built} and finds no device" if built else "is built without CUDA"
        raise ConfigError(
            f"device: no CUDA device found (PyTorch {torch.__version__} {why}); choose 'cpu'"
        )
    # See https://pytorch.org/docs/stable/notes/randomness.html; cuBLAS reads its variable once.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda", torch.cuda.current_device())


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread in the block, as splitting sums over threads changes their last bits."""
    before = torch.get_num_threads()
    if before != 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if before != 1:
            torch.set_num_threads(before)


def place(tensors: Mapping[str, Tensor], device: torch.device) -> Tensors:
    """Move tensors to a device, without copying those that are already there."""
    return {key: value.to(device) for key, value in tensors.items()}


def chunk_tasks(model: Model, device: torch.device) -> int:
    """Return how many tasks a model computes at once on a device.

    It depends on the model and the type of device but not on the machine's size, so that a run has the
    same chunks everywhere.
    """
    fits = model.chunk_tasks
    if device.type == "cuda":
        fits = getattr(model, "cuda_chunk_tasks", LARGER_CHUNKS * fits)
    return max(1, fits)
