"""Coordinatewise LSTM optimizer: learns an update rule alone, for the weights of any model."""

from functools import cached_property
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from typing_extensions import override

from fedmeta.about import About
from fedmeta.learning.algorithm import Tensors
from fedmeta.learning.algorithms.lstm_optimizer import RULE, SCALE, LSTMOptimizer
from fedmeta.learning.layers import init_lstm, linear, lstm_cell, preprocessed, uniform
from fedmeta.options import Options as BaseOptions


class CoordinatewiseLSTM(LSTMOptimizer):
    """Coordinatewise LSTM optimizer: a small LSTM, shared by all weights, computes each weight's step.

    Andrychowicz et al. 2016, "Learning to learn by gradient descent by gradient descent": equation 2,
    ``theta' = theta + g``, where ``g`` is the output of a two-layer LSTM with a state for each weight
    (section 2.1), whose input is the weight's gradient, preprocessed (appendix A). The meta-objective
    is the mean of the losses after each step (equation 3 with equal weights), here of the query set.
    Gradients of the learner count as constants in the meta-gradient, as in the paper.

    The state holds the rule alone, ``@rule.<name>``, so that is all that clients send: a few thousand
    numbers for a network of any size. Every task starts from the same random weights, which
    ``start_seed`` draws. The paper draws new ones for each problem.
    """

    about = About(
        paper='Andrychowicz et al. 2016, "Learning to learn by gradient descent by gradient descent"',
        year=2016,
        family="learned optimizer",
        learns="an update rule",
        sends="the query gradient of the rule's weights",
    )
    every_step: ClassVar[bool] = True

    class Options(BaseOptions):
        """Options of the coordinatewise LSTM; the defaults are those of the paper.

        Attributes:
            inner_steps: Steps in training (the paper's unroll); at test, ``evaluation.steps`` sets them.
            hidden: Units of each of the two layers for each weight.
            scale: Factor of the LSTM's output.
            start_seed: Random seed of the weights that every task starts from.
        """

        inner_steps: PositiveInt = 20
        hidden: PositiveInt = 20
        scale: float = Field(default=0.1, gt=0)
        start_seed: int = Field(default=0, ge=0, lt=2**63)

    options: Options  # type: ignore[assignment]

    @override
    def init(self, generator: torch.Generator) -> Tensors:
        """Draw the rule; its first steps are close to 0."""
        size = self.options.hidden
        rule = init_lstm("lstm0", 2, size, generator) | init_lstm("lstm1", size, size, generator)
        rule |= {"step.weight": uniform((size, 1), 0.01, generator), "step.bias": torch.zeros(1)}
        return {RULE + key: value for key, value in rule.items()}

    @override
    def weights(self, state: Tensors) -> Tensors:
        """Return the random weights that every task starts from; in a stream, those of the state.

        Only `learn` puts weights into a state.
        """
        if own := super().weights(state):
            return own
        like = state[f"{RULE}step.bias"]
        return {
            key: value.to(like.device, like.dtype).expand(*like.shape[:-1], *value.shape)
            for key, value in self._start.items()
        }

    @cached_property
    def _start(self) -> Tensors:
        return self.model.init(torch.Generator().manual_seed(self.options.start_seed))

    @override
    def memory(self, weights: Tensor) -> list[Tensor]:
        return [weights.new_zeros(*weights.shape, self.options.hidden)] * 4

    @override
    def move(
        self, rule: Tensors, weights: Tensor, gradient: Tensor, loss: Tensor, memory: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        seen, after = preprocessed(gradient, SCALE), []
        for layer, (hidden, cell) in (("lstm0", memory[:2]), ("lstm1", memory[2:])):
            gates = torch.baddbmm(linear(rule, layer, seen), hidden, rule[f"{layer}.recurrent"])
            seen, cell = lstm_cell(gates, cell)
            after += [seen, cell]
        step = linear(rule, "step", seen).squeeze(-1)
        return weights + self.options.scale * step, after
