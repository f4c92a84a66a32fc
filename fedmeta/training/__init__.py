"""Federated, centralized and local training, with one loop over rounds."""

from fedmeta.training.loop import Observer, evaluate, run_rounds, simulate
from fedmeta.training.ways import WAYS, TrainingSetup, Way
from fedmeta.training.ways.local import model_for

__all__ = ["WAYS", "Observer", "TrainingSetup", "Way", "evaluate", "model_for", "run_rounds", "simulate"]
