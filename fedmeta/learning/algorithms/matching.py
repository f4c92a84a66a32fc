"""Matching networks: classify by attention over embedded support examples."""

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.about import About
from fedmeta.learning.algorithm import Tensors
from fedmeta.learning.embedding import EmbeddingAlgorithm, Support
from fedmeta.learning.layers import init_lstm, linear, lstm_cell

EXAMPLES, TARGETS, MASK = "examples", "targets", "mask"
FORWARD, BACKWARD, READER = "matching.forward", "matching.backward", "matching.reader"


class Matching(EmbeddingAlgorithm):
    """Matching networks: a label's probability is the attention on its support examples.

    Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra 2016, "Matching Networks for One Shot Learning":
    ``P(y | x, S) = sum_i a(x, x_i) y_i`` (equation 1), with ``a`` a softmax over the cosines of
    ``f(x)`` and ``g(x_i)`` (section 2.1.1). Predictions are ``log P``. A task may have any number of
    ways at test.

    With ``full_context = "lstm"`` the embeddings see the whole support set, as in appendix A: ``g`` adds
    the outputs of a bidirectional LSTM over the support set, in its order, to each embedding; ``f`` is
    an LSTM that attends to ``g`` ``reads`` times (equations 3 to 6).

    Raises:
        ConfigError: If tasks are not classification with one label per example.
    """

    about = About(
        paper='Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra 2016, "Matching Networks for One '
        'Shot Learning"',
        year=2016,
        family="metric",
        learns="an embedding, and with full context the LSTMs that relate examples",
        sends="the query gradient of all weights",
    )

    class Options(options.Options):
        """Options of matching networks.

        Attributes:
            full_context: Whether an example's embedding depends on the support set: ``lstm`` as in the
                paper's appendix A; ``none``: no.
            reads: Steps of the LSTM that attends to the support set, K in the paper, which gives no
                value; only with ``full_context = "lstm"``.
            scale: Factor of the cosines before the softmax; 1 in the paper.
        """

        full_context: Literal["none", "lstm"] = "none"
        reads: PositiveInt = 5
        scale: float = Field(default=1.0, gt=0)

    options: Options

    @override
    def init_own(self, generator: torch.Generator) -> Tensors:
        """Draw both directions of ``g`` and the reader of ``f``, with hidden states like embeddings."""
        if self.options.full_context == "none":
            return {}
        size = self.model.outputs
        return {
            **init_lstm(FORWARD, size, size, generator),
            **init_lstm(BACKWARD, size, size, generator),
            **init_lstm(READER, size, size, generator, read=size),
        }

    @override
    def condition(self, own: Tensors, support: Support) -> Tensors:
        """Return ``g`` of the support examples, their one-hot labels, and which are not padding."""
        examples, valid = support.features, support.valid
        if own:
            examples = examples + read_both_ways(own, examples, valid)
        return {EXAMPLES: examples, TARGETS: support.targets, MASK: valid}

    @override
    def answer(self, own: Tensors, known: Tensors, features: Tensor) -> Tensor:
        """Return the logarithms of the label probabilities."""
        weights = self._weights(own, known, features)
        # Cosines are bounded, so the probability of a label with support is not tiny.
        return (weights @ known[TARGETS]).clamp(min=torch.finfo(weights.dtype).tiny).log()

    @override
    def weigh(self, own: Tensors, known: Tensors, support: Support, features: Tensor) -> Tensor:
        """Return the attention on the support examples."""
        return self._weights(own, known, features)

    def _weights(self, own: Tensors, known: Tensors, features: Tensor) -> Tensor:
        if own:
            features = self._attend(own, known, features)
        cosines = F.normalize(features, dim=-1) @ F.normalize(known[EXAMPLES], dim=-1).mT
        return attention(self.options.scale * cosines, known[MASK])

    def _attend(self, own: Tensors, known: Tensors, features: Tensor) -> Tensor:
        """Return ``f(x, S)``: `reads` steps of an LSTM with attention (appendix A.1)."""
        examples = known[EXAMPLES]
        inputs = linear(own, READER, features)
        recurrent = own[f"{READER}.recurrent"]
        hidden = cell = torch.zeros_like(features)
        for _ in range(self.options.reads):
            read = attention(hidden @ examples.mT, known[MASK]) @ examples
            gates = torch.baddbmm(inputs, torch.cat([hidden, read], -1), recurrent)
            output, cell = lstm_cell(gates, cell)
            hidden = output + features
        return hidden


def attention(scores: Tensor, valid: Tensor) -> Tensor:
    """Return the softmax of ``scores [T, Q, S]`` over the support examples, without padding."""
    return scores.masked_fill(~valid.unsqueeze(1), -torch.inf).softmax(-1)


def read_both_ways(own: Tensors, examples: Tensor, valid: Tensor) -> Tensor:
    """Return the summed outputs of both LSTMs at each support example (appendix A.2)."""
    steps = range(examples.shape[1])
    read = _read(own, FORWARD, examples, valid, steps)
    return read + _read(own, BACKWARD, examples, valid, reversed(steps))


def _read(own: Tensors, name: str, examples: Tensor, valid: Tensor, order: Iterable[int]) -> Tensor:
    """Run an LSTM over ``examples [T, S, D]``; padding leaves its state as it is."""
    inputs = linear(own, name, examples).unbind(1)
    recurrent = own[f"{name}.recurrent"]
    hidden = cell = torch.zeros_like(examples[:, :1])
    outputs = [hidden] * len(inputs)
    for step in order:
        gates = torch.baddbmm(inputs[step].unsqueeze(1), hidden, recurrent)
        new_hidden, new_cell = lstm_cell(gates, cell)
        here = valid[:, step].view(-1, 1, 1)
        hidden, cell = torch.where(here, new_hidden, hidden), torch.where(here, new_cell, cell)
        outputs[step] = hidden
    return torch.cat(outputs, dim=1)
