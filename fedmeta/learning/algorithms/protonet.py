"""Prototypical networks: classify by the nearest mean of embedded support examples."""

import torch
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.about import About
from fedmeta.learning.algorithm import Tensors
from fedmeta.learning.embedding import EmbeddingAlgorithm, Support, memberships, share_out
from fedmeta.tasks import Examples

PROTOTYPES = "prototypes"
SEEN = "seen"


class ProtoNet(EmbeddingAlgorithm):
    """Prototypical networks: a meta-learned embedding, and a mean per class; no inner loop.

    Snell, Swersky, Zemel 2017, "Prototypical Networks for Few-shot Learning": prototypes by equation 1,
    class probabilities by a softmax over negative squared Euclidean distances, equation 2 and
    Algorithm 1. A task may have any number of ways at test. The state is the embedding's weights.

    Raises:
        ConfigError: If tasks are not classification with one label per example.
    """

    about = About(
        paper='Snell, Swersky, Zemel 2017, "Prototypical Networks for Few-shot Learning"',
        year=2017,
        family="metric",
        learns="an embedding",
        sends="the query gradient of the embedding's weights",
    )

    class Options(options.Options):
        """Prototypical networks have no options."""

    options: Options

    @override
    def condition(self, own: Tensors, support: Support) -> Tensors:
        """Return the prototypes ``[T, ways, D]``."""
        return {PROTOTYPES: class_means(support)}

    @override
    def answer(self, own: Tensors, known: Tensors, features: Tensor) -> Tensor:
        """Return negative squared distances to the prototypes as logits."""
        return negative_distances(features, known[PROTOTYPES])

    @torch.no_grad()
    def begin_stream(self, state: Tensors, like: Examples, ways: int) -> Tensors:
        """Return prototypes at 0, which give all classes the same probability before any example.

        See `fedmeta.learning.online.StreamLearner`.
        """
        few = {key: value[:, :2] for key, value in like.items()}
        features = self.objective.forward(self.model, self.split(state)[0], few)
        return {
            PROTOTYPES: features.new_zeros(len(features), ways, features.shape[-1]),
            SEEN: features.new_zeros(len(features), ways),
        }

    @torch.no_grad()
    def learn(self, state: Tensors, known: Tensors, examples: Examples) -> Tensors:
        """Return the class means of all examples so far; a class not yet seen is at the mean of all."""
        means, seen = known[PROTOTYPES], known[SEEN]
        features = self.objective.forward(self.model, self.split(state)[0], examples)
        members = memberships(examples, means.shape[1]).to(features.dtype)
        more = members.sum(1)
        total = (seen + more).unsqueeze(-1)
        moved = torch.bmm(members.mT, features) - more.unsqueeze(-1) * means
        means = means + moved / total.clamp(min=1)
        overall = (total * means).sum(1, keepdim=True) / total.sum(1, keepdim=True)
        return {PROTOTYPES: means.where(total > 0, overall), SEEN: total.squeeze(-1)}

    @override
    def weigh(self, own: Tensors, known: Tensors, support: Support, features: Tensor) -> Tensor:
        """Share out each class's probability by the distances to its single support examples."""
        chances = self.answer(own, known, features).softmax(-1)
        return share_out(chances, negative_distances(features, support.features), support)


def class_means(support: Support) -> Tensor:
    """Average the features by class, ``[T, ways, D]`` (Snell et al. 2017, equation 1).

    A class without support has its mean at 0.
    """
    weights = support.targets.transpose(1, 2)
    return torch.bmm(weights, support.features) / weights.sum(2, keepdim=True).clamp(min=1)


def negative_distances(embedded: Tensor, prototypes: Tensor) -> Tensor:
    """Return ``-||z - c||^2`` for ``z [T, B, D]`` and ``c [T, ways, D]``, ``[T, B, ways]``."""
    return -(embedded.unsqueeze(2) - prototypes.unsqueeze(1)).square().sum(-1)
