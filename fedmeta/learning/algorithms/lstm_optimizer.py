"""LSTM meta-learner: learns an update rule and the initial weights."""

import math
from collections.abc import Iterator
from itertools import islice
from typing import ClassVar, NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from typing_extensions import override

from fedmeta.about import About
from fedmeta.learning.algorithm import Tensors
from fedmeta.learning.inner import AdaptationOptions, Gradient, WeightAdaptation, gradients, leaves
from fedmeta.learning.layers import linear, lstm_cell, preprocessed, uniform
from fedmeta.tasks import Examples, TaskBatch

RULE = "@rule."
"""Prefix of the update rule's tensors in the state; no parameter of a model has it."""
SCALE = 10.0
COORDINATES = 5 * 2**16
"""Most weights, over all tasks and steps, to compute at once; a step stores a few kB for each."""


class Walk(NamedTuple):
    """The weights of tasks after an inner step.

    Attributes:
        weights: All weights, flattened, ``[T, N]``.
        slope: The gradient that the step used; None at the start.
    """

    weights: Tensor
    slope: Gradient | None


class LSTMOptimizer(WeightAdaptation):
    """LSTM meta-learner: an LSTM whose cell state is the learner's weights takes the inner steps.

    Ravi, Larochelle 2017, "Optimization as a Model for Few-Shot Learning", section 3: a step is
    ``theta' = f * theta - i * grad`` for each weight (equation 2 with the gradient as the candidate
    cell). The forget gate ``f`` and the input gate ``i``, a learned decay and learning rate, are
    sigmoids of a linear function of the gradient, the loss, the weight and the gate's previous value.
    As in the paper's experiments, gradient and loss reach the gates through a first LSTM layer and are
    preprocessed as in Andrychowicz et al. 2016, appendix A (``p = 10``). All weights share the rule, but
    each has its own LSTM states. The initial weights are the initial cell state and are learned too.

    Gradients and losses of the learner count as constants in the meta-gradient (section 3.3). The state
    holds the weights, and the rule as ``@rule.<name>``.
    """

    about = About(
        paper='Ravi, Larochelle 2017, "Optimization as a Model for Few-Shot Learning"',
        year=2017,
        family="learned optimizer",
        learns="an update rule and initial weights",
        sends="the query gradient of the rule's and the initial weights",
    )

    class Options(AdaptationOptions):
        """Options of the LSTM meta-learner.

        Attributes:
            inner_lr: Initial value of the input gate, which is the step size.
            inner_steps: Inner steps in training; at test, ``evaluation.steps`` sets them.
            hidden: Units of the first layer for each weight.
            keep: Initial value of the forget gate: the fraction of a weight that a step keeps.
        """

        inner_lr: float = Field(default=0.01, gt=0, lt=1)
        inner_steps: PositiveInt = 5
        hidden: PositiveInt = 20
        keep: float = Field(default=0.9933, gt=0, lt=1)

    options: Options
    every_step: ClassVar[bool] = False
    """Whether the meta-objective is the mean of the query losses after each step, not after the last."""

    @override
    def init(self, generator: torch.Generator) -> Tensors:
        """Draw the model's weights, and the rule's uniformly in ±0.01.

        Its biases make it close to gradient descent.
        """
        size = self.options.hidden

        def small(*shape: int) -> Tensor:
            return uniform(shape, 0.01, generator)

        weights = self.model.init(generator)
        rule = {
            "lstm.weight": small(4, 4 * size),
            "lstm.recurrent": small(size, 4 * size),
            "lstm.bias": small(4 * size),
            "forget.weight": small(size + 2, 1),
            "forget.bias": torch.tensor([_logit(self.options.keep)]),
            "input.weight": small(size + 2, 1),
            "input.bias": torch.tensor([_logit(self.options.inner_lr)]),
        }
        return weights | {RULE + key: value for key, value in rule.items()}

    @override
    def weights(self, state: Tensors) -> Tensors:
        """Return the model's initial weights."""
        return {key: value for key, value in state.items() if not key.startswith(RULE)}

    @override
    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Return each task's gradient of the query loss; the loss before is that of the support set."""
        own = sum(value[0].numel() for value in self.weights(state).values())
        size = max(1, COORDINATES // (own * self.options.inner_steps))
        parts = []
        for start in range(0, len(tasks), size):
            rows = {key: value[start : start + size] for key, value in state.items()}
            parts.append(self._updates(rows, tasks[start : start + size]))
        updates, metrics = (
            {key: torch.cat([part[i][key] for part in parts]) for key in parts[0][i]} for i in (0, 1)
        )
        return updates, metrics

    @torch.enable_grad()
    def _updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        source = leaves(state)
        path = list(islice(self._walk(source, tasks.support), self.options.inner_steps + 1))
        first = path[1].slope
        assert first is not None
        support_x = self.statistics(self.context(tasks.support))
        losses = []
        for point in path[1:] if self.every_step else path[-1:]:
            adapted = _cut(point.weights, self.weights(source))
            prediction = self.objective.forward(self.model, adapted, tasks.query, support_x, once=True)
            losses.append(self.objective.loss(prediction, tasks.query))
        metrics = self.metrics(
            (first.loss, first.prediction, tasks.support), (losses[-1], prediction, tasks.query)
        )
        return gradients(torch.stack(losses).mean(0), source), metrics

    @override
    def descend(self, state: Tensors, support: Examples) -> Iterator[Tensors]:
        """Yield the weights after 0, 1, 2, ... steps of the rule, without end and without a graph."""
        state = {key: value.detach() for key, value in state.items()}
        for point in self._walk(state, support):
            yield {k: v.detach() for k, v in _cut(point.weights, self.weights(state)).items()}

    def _walk(self, state: Tensors, support: Examples) -> Iterator[Walk]:
        """Yield the weights after 0, 1, 2, ... steps, with a graph back to `state`."""
        start = self.weights(state)
        rule = {k.removeprefix(RULE): v for k, v in state.items() if k.startswith(RULE)}
        weights = _joined(start)
        memory = self.memory(weights)
        slope = None
        while True:
            yield Walk(weights, slope)
            slope = self._slope(_cut(weights, start), support)
            weights, memory = self.move(rule, weights, _joined(slope.values), slope.loss, memory)

    def memory(self, weights: Tensor) -> list[Tensor]:
        """Return what the rule remembers before the first step, from weights ``[T, N]``."""
        hidden = weights.new_zeros(*weights.shape, self.options.hidden)
        gate = weights.new_zeros(*weights.shape, 1)
        return [hidden, hidden, gate, gate]

    def move(
        self, rule: Tensors, weights: Tensor, gradient: Tensor, loss: Tensor, memory: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Take one step of the rule.

        Args:
            rule: Its tensors, by name, ``[T, ...]``.
            weights: The weights, ``[T, N]``.
            gradient: Their gradient of the support loss.
            loss: That loss, ``[T]``.
            memory: What the rule remembers.

        Returns:
            The weights and the memory after the step.
        """
        hidden, cell, forget, enter = memory
        seen = torch.cat(
            [preprocessed(gradient, SCALE), preprocessed(loss.view(-1, 1).expand_as(gradient), SCALE)],
            -1,
        )
        gates = torch.baddbmm(linear(rule, "lstm", seen), hidden, rule["lstm.recurrent"])
        hidden, cell = lstm_cell(gates, cell)
        known = torch.cat([hidden, weights.unsqueeze(-1)], -1)
        forget = torch.sigmoid(linear(rule, "forget", torch.cat([known, forget], -1)))
        enter = torch.sigmoid(linear(rule, "input", torch.cat([known, enter], -1)))
        weights = forget.squeeze(-1) * weights - enter.squeeze(-1) * gradient
        return weights, [hidden, cell, forget, enter]

    @torch.enable_grad()
    def _slope(self, weights: Tensors, support: Examples) -> Gradient:
        """Return the support loss and its gradient; as constants, unless `second_order` is set."""
        if self.second_order:
            if not next(iter(weights.values())).requires_grad:
                weights = leaves(weights)
            return self.inner_gradient(weights, support, create_graph=True)
        made = self.inner_gradient(leaves(weights), support)
        return Gradient(made.values, made.loss.detach(), made.prediction.detach())


def _joined(weights: Tensors) -> Tensor:
    """Flatten weights ``[T, ...]`` to ``[T, N]``."""
    return torch.cat([value.flatten(1) for value in weights.values()], 1)


def _cut(row: Tensor, like: Tensors) -> Tensors:
    """Split ``[T, N]`` into tensors of the shapes of `like`."""
    parts = torch.split(row, [value[0].numel() for value in like.values()], 1)
    return {key: part.view(value.shape) for (key, value), part in zip(like.items(), parts, strict=True)}


def _logit(share: float) -> float:
    return math.log(share / (1 - share))
