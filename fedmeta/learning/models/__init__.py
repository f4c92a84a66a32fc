"""Networks as functions over the task axis; each is one module."""

from fedmeta.learning.models.conv4 import Conv4
from fedmeta.learning.models.lstm import LSTM
from fedmeta.learning.models.mlp import MLP

__all__ = ["LSTM", "MLP", "Conv4"]
