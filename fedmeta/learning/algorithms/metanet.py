"""Meta Networks: fast weights for each task, generated from the gradients of its support examples."""

import math

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.about import About
from fedmeta.learning.algorithm import Tensors
from fedmeta.learning.embedding import EmbeddingAlgorithm, Support
from fedmeta.learning.layers import (
    RecurrentWeight,
    init_linear,
    init_lstm,
    linear,
    lstm_cell,
    preprocessed,
    uniform,
    with_one,
)

HIDDEN, OUTPUT = "metanet.hidden", "metanet.output"
INDEX, GUESS = "metanet.index", "metanet.guess"
FAST, DYNAMIC = "metanet.fast", "metanet.dynamic"
LAYERS = 3
"""Layers of the network that generates fast weights."""
SLOPE = 0.1
"""Slope of the representation's leaky ReLU below 0."""
SCALE = 7.0
"""Gradients below ``exp(-7)`` are scaled instead of taking their logarithm."""


class MetaNet(EmbeddingAlgorithm):
    """Meta Networks: a classifier with slow weights, and fast weights generated from a task's gradients.

    Munkhdalai, Yu 2017, "Meta Networks", Algorithm 1. For each support example, ``m`` maps
    the gradient of the classifier's loss to fast weights, element by element; a memory keeps them. A
    query's fast weights are the mean of the memory, weighted by a softmax of cosines between
    representations of the query and the support. The representation has fast weights too: an LSTM
    makes them from the gradients of its own loss on the support examples, one after another (``d``). A
    layer with both adds their outputs, each after its activation ("layer augmentation").

    Fast weights are for fully connected layers on top of the model's embedding: two in the classifier,
    one in the representation. As in the authors' code, the gradients that fast weights come from are not
    differentiated again. The representation's loss is the cross-entropy of a softmax layer on top of it;
    that layer therefore gets no gradient and keeps its initial weights. The representation's fast path
    has a leaky ReLU: the first fast weights are nearly equal, so with a plain ReLU all would have the
    same sign, and ``d`` would often never get a gradient.

    Gradients enter ``m`` and ``d`` as their logarithm and sign (Andrychowicz et al. 2016, "Learning to
    learn by gradient descent by gradient descent", appendix A).

    Raises:
        ConfigError: If tasks are not classification with one label per example.
    """

    about = About(
        paper='Munkhdalai, Yu 2017, "Meta Networks"',
        year=2017,
        family="memory",
        learns="an embedding, a classifier, and how gradients become its fast weights",
        sends="the query gradient of all weights",
    )
    any_ways = False

    class Options(options.Options):
        """Options of Meta Networks.

        Attributes:
            hidden: Units of the classifier's hidden layer, and of the representation.
            maker: Units of the hidden layers of ``m``, and of the LSTM ``d``.
        """

        hidden: PositiveInt = 32
        maker: PositiveInt = 20

    options: Options

    @override
    def init_own(self, generator: torch.Generator) -> Tensors:
        """Draw the slow weights of both networks, of ``m`` and of ``d``."""
        size, hidden, maker = self.model.outputs, self.options.hidden, self.options.maker
        ways = self.spec.outputs
        drawn = {
            # The last row is the bias.
            HIDDEN: _init_augmented(size, hidden, generator),
            OUTPUT: _init_augmented(hidden, ways, generator),
            INDEX: _init_augmented(size, hidden, generator),
            GUESS: _init_augmented(hidden, ways, generator),
        }
        sizes = [2, *[maker] * (LAYERS - 1), 1]
        for layer in range(LAYERS):
            drawn |= init_linear(f"{FAST}{layer}", sizes[layer], sizes[layer + 1], generator)
        drawn |= init_lstm(DYNAMIC, 2, maker, generator)
        return drawn | init_linear(f"{DYNAMIC}.out", maker, 1, generator)

    @override
    def condition(self, own: Tensors, support: Support) -> Tensors:
        """Return the memory of fast weights, its keys, and the representation's fast weights."""
        features = with_one(support.features)
        valid = support.valid.unsqueeze(-1)
        with torch.no_grad():
            by_index, _ = example_gradients(features, own[INDEX], own[GUESS], support.targets)
            by_hidden, by_output = example_gradients(features, own[HIDDEN], own[OUTPUT], support.targets)
        dynamic = self._dynamic(own, by_index, valid)
        keys = F.relu(features @ own[INDEX]) + F.leaky_relu(features @ dynamic, SLOPE)
        return {
            "hidden": self._fast(own, by_hidden),
            "output": self._fast(own, by_output),
            "dynamic": dynamic,
            "keys": keys,
            "valid": valid,
        }

    @override
    def answer(self, own: Tensors, known: Tensors, features: Tensor) -> Tensor:
        """Classify each query with slow weights and the fast weights that it attends to."""
        features = with_one(features)
        found = F.relu(features @ own[INDEX]) + F.leaky_relu(features @ known["dynamic"], SLOPE)
        cosines = F.normalize(found, dim=-1) @ F.normalize(known["keys"], dim=-1).mT
        attention = cosines.masked_fill(~known["valid"].mT, -math.inf).softmax(-1)
        hidden = F.relu(features @ own[HIDDEN])
        hidden = with_one(hidden + F.relu(_attended(features, known["hidden"], attention)))
        return hidden @ own[OUTPUT] + _attended(hidden, known["output"], attention)

    def _fast(self, own: Tensors, gradient: Tensor) -> Tensor:
        """Compute ``m``: fast weights ``[T, S, in, out]`` from each example's gradients."""
        values = preprocessed(gradient, SCALE).flatten(1, -2)
        for layer in range(LAYERS):
            values = linear(own, f"{FAST}{layer}", values)
            values = F.relu(values) if layer < LAYERS - 1 else values
        return values.view(gradient.shape)

    def _dynamic(self, own: Tensors, gradient: Tensor, valid: Tensor) -> Tensor:
        """Compute ``d``: fast weights ``[T, in, out]`` from the gradients of all examples in turn."""
        tasks, count = gradient.shape[:2]
        # Each weight is a row of the LSTM's batch.
        steps = preprocessed(gradient, SCALE).flatten(2, 3)
        into = linear(own, DYNAMIC, steps.flatten(1, 2)).view(tasks, count, steps.shape[2], -1)
        recurrent = RecurrentWeight(own[f"{DYNAMIC}.recurrent"])
        hidden = cell = into.new_zeros(tasks, steps.shape[2], self.options.maker)
        for index, step in enumerate(into.unbind(1)):
            after = lstm_cell(recurrent(step, hidden), cell)
            here = valid[:, index].unsqueeze(1)
            hidden, cell = torch.where(here, after[0], hidden), torch.where(here, after[1], cell)
        return linear(own, f"{DYNAMIC}.out", hidden).view(tasks, *gradient.shape[2:])


def _init_augmented(fan_in: int, fan_out: int, generator: torch.Generator) -> Tensor:
    return uniform((fan_in + 1, fan_out), 1 / math.sqrt(fan_in), generator)


def example_gradients(
    features: Tensor, first: Tensor, second: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of each example's cross-entropy for both layers' weights.

    The network is ``softmax([relu(features @ first), 1] @ second)``.

    Args:
        features: ``[T, S, D + 1]``, the last of which is 1.
        first: ``[T, D + 1, H]``.
        second: ``[T, H + 1, ways]``.
        targets: One-hot labels ``[T, S, ways]``; zero where padded, so that gradients there are 0.

    Returns:
        ``[T, S, D + 1, H]`` and ``[T, S, H + 1, ways]``.
    """
    hidden = F.relu(features @ first)
    error = (with_one(hidden) @ second).softmax(-1) - targets
    error = error * targets.sum(-1, keepdim=True)
    back = (error @ second[:, :-1].mT) * (hidden > 0)
    by_first = features.unsqueeze(-1) * back.unsqueeze(-2)
    return by_first, with_one(hidden).unsqueeze(-1) * error.unsqueeze(-2)


def _attended(x: Tensor, fast: Tensor, attention: Tensor) -> Tensor:
    """Compute ``x_q @ (sum_s attention_qs fast_s)`` for ``x [T, Q, in]``: ``[T, Q, out]``."""
    each = torch.einsum("tqi,tsio->tqso", x, fast)
    return (attention.unsqueeze(-1) * each).sum(2)
