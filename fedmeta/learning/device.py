"""Where tensors are computed: on the CPU, or on a GPU that gives the same bits each time."""

import os
from collections.abc import Mapping

import torch
from torch import Tensor

from fedmeta.errors import ConfigError
from fedmeta.learning.algorithm import Model, Tensors
from fedmeta.options import nearest

CPU: torch.device = torch.device("cpu")
LARGER_CHUNKS = 16
"""By how much a chunk of tasks is larger on a GPU than what suits a CPU's caches."""


def choose_device(asked: str, here: bool = True) -> str:
    """Return the device that ``auto`` stands for, or the one that is asked for.

    The rule: ``cuda`` where the clients are computed in this process and PyTorch finds a CUDA device.

    Args:
        asked: ``auto``, ``cpu`` or ``cuda``.
        here: Whether clients are computed in this process.
    """
    if asked != "auto":
        return asked
    return "cuda" if here and torch.cuda.is_available() else "cpu"


def use_device(name: str) -> torch.device:
    """Return a device, made ready to give the same bits for the same work.

    Of several CUDA devices it is the first one that ``CUDA_VISIBLE_DEVICES`` lets PyTorch see.

    For ``cuda`` the settings are those of the whole process.

    Raises:
        ConfigError: If there is no such device here.
    """
    if name == "cpu":
        return CPU
    if name != "cuda":
        raise ConfigError(f"device: unknown device '{name}': {nearest(name, ('auto', 'cpu', 'cuda'))}")
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"is built for CUDA {built}, and finds no device" if built else "is built without CUDA"
        raise ConfigError(
            f"device: there is no CUDA device here (PyTorch {torch.__version__} {why}); choose 'cpu'"
        )
    # As https://pytorch.org/docs/stable/notes/randomness.html says; cuBLAS reads its variable once.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda", torch.cuda.current_device())


def place(tensors: Mapping[str, Tensor], device: torch.device) -> Tensors:
    """Move tensors to a device; those that are there already are not copied."""
    return {key: value.to(device) for key, value in tensors.items()}


def chunk_tasks(model: Model, device: torch.device) -> int:
    """Return how many tasks a model computes at once on a device.

    It depends on the model and the kind of device, never on how large the machine is, so that a run is
    cut in the same way everywhere.
    """
    fits = model.chunk_tasks
    if device.type == "cuda":
        fits = getattr(model, "cuda_chunk_tasks", LARGER_CHUNKS * fits)
    return max(1, fits)
