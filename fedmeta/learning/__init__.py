"""Models and meta-learning algorithms, as functions of tensors."""

from typing import TYPE_CHECKING

from fedmeta.lazy import lazy_names

if TYPE_CHECKING:
    from fedmeta.about import About
    from fedmeta.learning.algorithm import ALGORITHMS, MODELS, Algorithm, Model, Tensors, expand_state
    from fedmeta.learning.allocator import keep_freed_memory
    from fedmeta.learning.device import CPU, chunk_tasks, one_thread, place, use_device
    from fedmeta.learning.local import KeyRule, LocalWork, local_steps, mean_metrics
    from fedmeta.learning.lora import LowRank, add_adapters
    from fedmeta.learning.setup import (
        AlgorithmSetup,
        build_algorithm,
        build_model,
        has_kernel,
        resolve_setup,
    )
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "ALGORITHMS",
    "CPU",
    "MODELS",
    "About",
    "Algorithm",
    "AlgorithmSetup",
    "KeyRule",
    "LocalWork",
    "LowRank",
    "Model",
    "Tensors",
    "add_adapters",
    "build_algorithm",
    "build_model",
    "chunk_tasks",
    "expand_state",
    "has_kernel",
    "keep_freed_memory",
    "local_steps",
    "mean_metrics",
    "one_thread",
    "place",
    "resolve_setup",
    "use_device",
]
