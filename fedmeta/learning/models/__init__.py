"""Networks as functions over the task axis."""

from fedmeta.learning.models import mlp  # noqa: F401  (registers itself)
from fedmeta.learning.models.build import build_model, resolve_network

__all__ = ["build_model", "resolve_network"]
