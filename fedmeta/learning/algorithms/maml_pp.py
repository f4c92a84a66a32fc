"""MAML++: MAML with learned rates per layer and step, and a loss at each step."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedmeta.about import About
from fedmeta.learning.algorithm import Tensors
from fedmeta.learning.inner import Gradient, InnerOptions, WeightAdaptation, leaves, sgd_step
from fedmeta.learning.local import LocalWork, local_steps
from fedmeta.tasks import Examples, TaskBatch

RATE = "lr."
IMPORTANCE = "@importance"
"""State key of the loss weights ``[T, steps]``, in rounds of the multi-step loss."""
FIRST_ORDER = "@first_order"
"""State key that marks rounds of first-order gradients."""


class MAMLPP(WeightAdaptation):
    """MAML++: exact gradients of the query losses after all inner steps, for weights and inner rates.

    Antoniou, Edwards, Storkey 2019, "How to train your MAML", section 4:

    - *multi-step loss*: the query loss after each step counts, with equal weights in the first round;
      all weights but the last fall linearly to 0 over ``multi_step_rounds``;
    - *per-layer per-step learning rates*: one for each tensor of weights and inner step, learned. At
      test, steps beyond those of training use the last step's;
    - *derivative-order annealing*: first-order gradients in the first ``first_order_rounds``;
    - *cosine annealing* of the outer rate: set ``server.schedule = "cosine"``.

    The paper's batch norm with running statistics and biases for each step is left out:
    fedmeta's batch norm takes its statistics from the task and keeps none. The state holds the weights
    and, as ``lr.<name>``, the rates ``[steps]``.
    """

    about = About(
        paper='Antoniou, Edwards, Storkey 2019, "How to train your MAML"',
        year=2019,
        family="gradient",
        learns="initial weights and an inner learning rate per layer and step",
        sends="the meta-gradient of weights and learning rates",
    )
    second_order = True

    class Options(InnerOptions):
        """Options of MAML++; defaults are those of the paper's code for Omniglot.

        Attributes:
            inner_lr: Initial value of all inner learning rates.
            multi_step_rounds: Rounds until only the last step's loss counts; the paper: a tenth of all.
            first_order_rounds: Rounds without second derivatives; 50 of 150 epochs in the paper's text.
        """

        inner_lr: float = Field(default=0.1, gt=0)
        inner_steps: int = Field(default=5, ge=1)
        multi_step_rounds: int = Field(default=5000, ge=0)
        first_order_rounds: int = Field(default=0, ge=0)

    options: Options

    @override
    def init(self, generator: torch.Generator) -> Tensors:
        """Draw the weights; all learning rates start at ``inner_lr``."""
        weights = self.model.init(generator)
        rates = torch.full((self.options.inner_steps,), self.options.inner_lr)
        return weights | {RATE + key: rates.clone() for key in weights}

    @override
    def weights(self, state: Tensors) -> Tensors:
        """Return the tensors that have learning rates."""
        return {key: value for key, value in state.items() if RATE + key in state}

    @override
    def learned_rates(self, state: Tensors) -> Tensors:
        """Return each tensor's learning rate in each step, ``[steps, 1]``."""
        return {key: state[RATE + key].unsqueeze(1) for key in self.weights(state)}

    @override
    def local_update(
        self, start: Tensors, client: Tensors, work: LocalWork
    ) -> tuple[Tensors, Tensors, Tensors]:
        """Take local steps; extra keys of the state tell `task_updates` which loss the round has."""
        told: dict[str, Tensor] = {}
        like = next(iter(start.values()))
        if work.round <= self.options.multi_step_rounds:
            told[IMPORTANCE] = like.new_tensor(self.importance(work.round))
        if max(work.round, 1) <= self.options.first_order_rounds:
            told[FIRST_ORDER] = like.new_zeros(())

        def updates_of_round(state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
            rows = {key: value.expand(len(tasks), *value.shape) for key, value in told.items()}
            updates, metrics = work.task_updates(state | rows, tasks)
            return {key: updates[key] for key in state}, metrics

        update, metrics = local_steps(start, replace(work, task_updates=updates_of_round))
        return update, client, metrics

    def importance(self, round_: int) -> list[float]:
        """Return the weight of the query loss after each step, in a round counted from 1."""
        steps, rounds = self.options.inner_steps, self.options.multi_step_rounds
        early = (1 - min(max(round_ - 1, 0) / rounds, 1.0)) / steps if rounds else 0.0
        return [early] * (steps - 1) + [1 - (steps - 1) * early]

    @override
    @torch.enable_grad()
    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Return each task's meta-gradient; without a round's keys, that of the last step's loss."""
        steps = self.options.inner_steps
        path = [{key: value.detach() for key, value in self.weights(state).items()}]
        slopes: list[Gradient] = []
        for step in range(steps):
            slopes.append(self.inner_gradient(leaves(path[-1]), tasks.support))
            path.append(sgd_step(path[-1], slopes[-1].values, step_rates(state, path[-1], step)))
        last = self.query_gradient(path[-1], tasks)
        adjoint = _scaled(last.values, state, steps - 1)
        by_rates: dict[str, list[Tensor]] = {key: [] for key in adjoint}
        for step in reversed(range(steps)):
            for key, value in adjoint.items():
                by_rates[key].append(-(slopes[step].values[key] * value).flatten(1).sum(1))
            if FIRST_ORDER not in state:
                rates = step_rates(state, path[step], step)
                along = {key: rates[key] * value for key, value in adjoint.items()}
                product = self.objective.hvp(self.model, path[step], tasks.support, along)
                adjoint = {key: value - product[key] for key, value in adjoint.items()}
            if step and IMPORTANCE in state:
                own = _scaled(self.query_gradient(path[step], tasks).values, state, step - 1)
                adjoint = {key: value + own[key] for key, value in adjoint.items()}
        found = adjoint | {RATE + key: torch.stack(values[::-1], 1) for key, values in by_rates.items()}
        metrics = self.metrics(
            (slopes[0].loss, slopes[0].prediction, tasks.support),
            (last.loss, last.prediction, tasks.query),
        )
        still = {key: torch.zeros_like(value) for key, value in state.items() if key not in found}
        return {key: (found | still)[key] for key in state}, metrics

    @override
    def descend(self, state: Tensors, support: Examples) -> Iterator[Tensors]:
        """Yield the weights after 0, 1, 2, ... steps, without end and without a graph."""
        params = {key: value.detach() for key, value in self.weights(state).items()}
        step = 0
        while True:
            yield params
            with torch.enable_grad():
                slope = self.inner_gradient(leaves(params), support).values
            with torch.no_grad():
                params = sgd_step(params, slope, step_rates(state, params, step))
            step += 1


def step_rates(state: Tensors, weights: Tensors, step: int) -> Tensors:
    """Return the rates of a step, counted from 0, one number per task, shaped to scale the weights."""
    found = {}
    for key, value in weights.items():
        rates = state[RATE + key].detach()
        rate = rates[:, min(step, rates.shape[1] - 1)]
        found[key] = rate.view(-1, *[1] * (value.dim() - 1))
    return found


def _scaled(slope: Tensors, state: Tensors, step: int) -> Tensors:
    """Scale gradients of the query loss by the loss's weight, where the state has it."""
    if IMPORTANCE not in state:
        return slope
    weight = state[IMPORTANCE][:, step]
    return {key: weight.view(-1, *[1] * (v.dim() - 1)) * v for key, v in slope.items()}
