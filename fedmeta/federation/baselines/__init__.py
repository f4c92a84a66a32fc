"""What federated training is compared with: all tasks in one place, and each client alone."""

from fedmeta.federation.baselines.centralized import train_centralized
from fedmeta.federation.baselines.local import evaluate_local, model_for, train_local

__all__ = ["evaluate_local", "model_for", "train_centralized", "train_local"]
