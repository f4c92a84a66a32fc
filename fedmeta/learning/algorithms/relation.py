"""Relation networks: a learned network compares a query example with each class."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.about import About
from fedmeta.learning.algorithm import Tensors
from fedmeta.learning.embedding import EmbeddingAlgorithm, Support, share_out
from fedmeta.learning.layers import init_linear, linear
from fedmeta.tasks import Examples
from fedmeta.tasks.objective import mean_of_examples

SUMS = "sums"


class Relation(EmbeddingAlgorithm):
    """Relation networks: a network scores how a query example relates to each class, from 0 to 1.

    Sung, Yang, Zhang, Xiang, Torr, Hospedales 2018, "Learning to Compare: Relation Network for Few-Shot
    Learning": the score ``r = g(C(sum of f(x_i), f(x)))`` of a class (equation 1, its embedded support
    examples summed, section 3.2), trained by the squared error to 1 for the right class and 0 for the
    others (equation 2), here divided by the number of query examples. A task may have any number of
    ways at test.

    Predictions are ``log r``: their softmax is ``r`` over the sum of all classes' scores, and the loss
    that is reported and compared is its cross-entropy, not the squared error that training minimises.

    The paper's relation module starts with two 3x3 convolutions of feature maps. Embeddings are vectors
    here: maps of one pixel, for which a convolution is a dense layer. No batch norm is between them,
    so that a prediction does not depend on other query examples.

    Raises:
        ConfigError: If tasks are not classification with one label per example.
    """

    about = About(
        paper="Sung, Yang, Zhang, Xiang, Torr, Hospedales 2018, "
        '"Learning to Compare: Relation Network for Few-Shot Learning"',
        year=2018,
        family="metric",
        learns="an embedding and a network that compares embeddings",
        sends="the gradient of the squared error of relation scores",
    )

    class Options(options.Options):
        """Options of relation networks.

        Attributes:
            hidden: Units of each hidden layer of the relation module: in the paper two convolutions with
                64 filters and a dense layer of 8.
        """

        hidden: list[PositiveInt] = Field(default=[64, 64, 8])

    options: Options

    @override
    def init_own(self, generator: torch.Generator) -> Tensors:
        """Draw the relation module's layers, from twice the embedding's size to one score."""
        sizes = [2 * self.model.outputs, *self.options.hidden, 1]
        own: Tensors = {}
        for layer, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            own |= init_linear(f"relation{layer}", fan_in, fan_out, generator)
        return own

    @override
    def condition(self, own: Tensors, support: Support) -> Tensors:
        """Return the sum of the embeddings of each class, ``[T, ways, D]``."""
        return {SUMS: torch.bmm(support.targets.transpose(1, 2), support.features)}

    @override
    def answer(self, own: Tensors, known: Tensors, features: Tensor) -> Tensor:
        """Return the logarithms of the relation scores."""
        sums = known[SUMS]
        shape = (*features.shape[:2], sums.shape[1])
        pairs = torch.cat(
            [
                sums.unsqueeze(1).expand(*shape, -1),
                features.unsqueeze(2).expand(*shape, -1),
            ],
            dim=-1,
        ).flatten(1, 2)
        last = len(self.options.hidden)
        for layer in range(last):
            pairs = torch.relu(linear(own, f"relation{layer}", pairs))
        return F.logsigmoid(linear(own, f"relation{last}", pairs)).view(shape)

    @override
    def weigh(self, own: Tensors, known: Tensors, support: Support, features: Tensor) -> Tensor:
        """Share out each class's probability by the relation scores of its single support examples."""
        chances = self.answer(own, known, features).softmax(-1)
        return share_out(chances, self.answer(own, {SUMS: support.features}, features), support)

    @override
    def training_loss(self, prediction: Tensor, query: Examples) -> Tensor:
        """Return the squared error of the scores, summed over classes (equation 2)."""
        wanted = F.one_hot(query["y"], prediction.shape[-1])
        errors = (prediction.exp() - wanted).square().sum(-1)
        return mean_of_examples(errors, query)
