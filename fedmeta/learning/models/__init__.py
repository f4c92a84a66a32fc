"""Networks as functions over the task axis, one per module."""

from fedmeta.learning.models.conv4 import Conv4
from fedmeta.learning.models.lstm import LSTM
from fedmeta.learning.models.mlp import MLP

__all__ = ["LSTM", "MLP", "Conv4"]
