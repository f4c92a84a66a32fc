"""Training without a federation, as baselines: centralized, and each client alone."""

from fedmeta.training.ways.centralized import train_centralized
from fedmeta.training.ways.local import evaluate_local, model_for, train_local

__all__ = ["evaluate_local", "model_for", "train_centralized", "train_local"]
