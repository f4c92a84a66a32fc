"""Networks as functions over the task axis; each is one module."""

from fedmeta.learning.models.build import build_model, resolve_network
from fedmeta.learning.models.conv4 import Conv4
from fedmeta.learning.models.lstm import LSTM
from fedmeta.learning.models.mlp import MLP
from fedmeta.learning.models.module import ModuleModel

__all__ = ["LSTM", "MLP", "Conv4", "ModuleModel", "build_model", "resolve_network"]
