"""Meta-SGD: MAML that also learns an inner learning rate per weight."""

import torch

from fedmeta.about import About
from fedmeta.learning.algorithm import Tensors
from fedmeta.learning.algorithms.maml import MAML

RATE = "lr."


class MetaSGD(MAML):
    """Meta-SGD: an inner learning rate per weight, meta-learned together with the initial weights.

    Li, Zhou, Chen, Li 2017, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning", equation 2,
    ``theta' = theta - alpha * grad L_support(theta)`` (elementwise), and Algorithm 1. The state holds
    ``theta`` and, as ``lr.<name>``, ``alpha``, which starts at ``inner_lr`` and may become negative.
    """

    about = About(
        paper='Li, Zhou, Chen, Li 2017, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning"',
        year=2017,
        family="gradient",
        learns="initial weights and an inner learning rate for each",
        sends="the meta-gradient of weights and learning rates",
    )

    def init(self, generator: torch.Generator) -> Tensors:
        """Draw the initial weights; all learning rates start at ``inner_lr``."""
        weights = self.model.init(generator)
        rates = {
            RATE + key: torch.full_like(value, self.options.inner_lr) for key, value in weights.items()
        }
        return weights | rates

    def learned_rates(self, state: Tensors) -> Tensors:
        """Return each tensor's learning rates, ``[1, N]``."""
        return {key: value.flatten().unsqueeze(0) for key, value in self.rates(state).items()}

    def meta_updates(self, weights: Tensors, rates: Tensors) -> Tensors:
        """Return the meta-gradients of weights and learning rates by their keys."""
        return weights | {RATE + key: value for key, value in rates.items()}

    def weights(self, state: Tensors) -> Tensors:
        """Return the tensors that have a learning rate."""
        return {key: value for key, value in state.items() if RATE + key in state}

    def rates(self, state: Tensors) -> Tensors:
        """Return the learning rates under the names of their weights."""
        return {key: state[RATE + key] for key in self.weights(state)}
