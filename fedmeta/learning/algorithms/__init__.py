"""Meta-learning algorithms; importing this package registers them."""

from fedmeta.learning.algorithms.maml import FOMAML, MAML

__all__ = ["FOMAML", "MAML"]
