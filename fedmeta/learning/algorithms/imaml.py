"""iMAML: MAML by implicit differentiation of a regularised inner problem."""

from collections.abc import Iterator
from functools import reduce

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedmeta.about import About
from fedmeta.learning.algorithm import Tensors
from fedmeta.learning.inner import InnerOptions, WeightAdaptation, leaves, sgd_step
from fedmeta.tasks import Examples, TaskBatch


class IMAML(WeightAdaptation):
    """iMAML: the implicit meta-gradient at the solution of a proximal inner problem.

    Rajeswaran, Finn, Kakade, Levine 2019, "Meta-Learning with Implicit Gradients": the inner loop
    descends ``L_support(phi) + lambda / 2 |phi - theta|^2`` (equation 3), and the meta-gradient solves
    ``(I + H / lambda) g = grad L_query(phi)``, with ``H`` the Hessian of ``L_support`` at ``phi``
    (equation 6, Algorithms 1 and 2), by conjugate gradient started at ``grad L_query(phi)``. Its memory
    does not grow with the inner steps. It is exact at the solution of the inner problem; elsewhere it is
    the paper's approximation.

    If ``I + H / lambda`` turns out not to be positive definite for a task, its conjugate gradient stops
    and returns the current iterate, which is the first-order gradient at the first step. A larger
    ``lambda`` prevents this.
    """

    about = About(
        paper='Rajeswaran, Finn, Kakade, Levine 2019, "Meta-Learning with Implicit Gradients"',
        year=2019,
        family="gradient",
        learns="initial weights, towards which a task is regularised",
        sends="the implicit meta-gradient of the weights",
    )
    second_order = True

    class Options(InnerOptions):
        """Options of iMAML; defaults are the paper's for 5-way Omniglot.

        Attributes:
            proximal: ``lambda``, the weight of the distance from the initial weights.
            cg_steps: Steps of conjugate gradient; with 0 the meta-gradient is the first-order one.
        """

        inner_lr: float = Field(default=0.01, gt=0)
        inner_steps: int = Field(default=16, ge=1)
        proximal: float = Field(default=2.0, gt=0)
        cg_steps: int = Field(default=5, ge=0)

    options: Options

    @override
    @torch.enable_grad()
    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Return each task's implicit meta-gradient; the loss before is that of the support set."""
        start = {key: value.detach() for key, value in state.items()}
        weights, first = start, None
        for _ in range(self.options.inner_steps):
            slope = self.inner_gradient(leaves(weights), tasks.support)
            first = first or slope
            weights = self._step(weights, slope.values, start)
        assert first is not None
        query = self.query_gradient(weights, tasks)
        found = self._solve(query.values, weights, tasks.support)
        metrics = self.metrics(
            (first.loss, first.prediction, tasks.support), (query.loss, query.prediction, tasks.query)
        )
        return found, metrics

    @override
    def descend(self, state: Tensors, support: Examples) -> Iterator[Tensors]:
        """Yield the weights after 0, 1, 2, ... steps of the proximal problem, without a graph."""
        weights = start = {key: value.detach() for key, value in state.items()}
        while True:
            yield weights
            with torch.enable_grad():
                slope = self.inner_gradient(leaves(weights), support).values
            with torch.no_grad():
                weights = self._step(weights, slope, start)

    @override
    def learn(self, state: Tensors, known: Tensors, examples: Examples) -> Tensors:
        """Return the weights after a step that is pulled to the meta-learned weights, not to `known`."""
        with torch.enable_grad():
            slope = self.inner_gradient(leaves(known), examples).values
        with torch.no_grad():
            return self._step(known, slope, state)

    def _step(self, weights: Tensors, slope: Tensors, start: Tensors) -> Tensors:
        """Step along ``grad L_support(phi) + lambda (phi - theta)``."""
        pulled = {
            key: slope[key] + self.options.proximal * (value - start[key])
            for key, value in weights.items()
        }
        return sgd_step(weights, pulled, self.options.inner_lr)

    def _solve(self, right: Tensors, weights: Tensors, support: Examples) -> Tensors:
        """Solve ``(I + H / lambda) x = right`` for each task (Hestenes, Stiefel 1952, section 3)."""

        def times(vector: Tensors) -> Tensors:
            product = self.objective.hvp(self.model, weights, support, vector)
            return {key: vector[key] + product[key] / self.options.proximal for key in vector}

        found = right
        if not self.options.cg_steps:
            return found
        product = times(found)
        residual = {key: right[key] - product[key] for key in right}
        direction, square = residual, _dot(residual, residual)
        active = square > 0
        for _ in range(self.options.cg_steps):
            product = times(direction)
            curvature = _dot(direction, product)
            # Stop where there is no curvature: the task is solved, or its matrix not positive definite.
            active = active & (curvature > 0)
            length = torch.where(active, square / curvature, 0.0)
            found = _added(found, length, direction)
            residual = _added(residual, -length, product)
            before, square = square, _dot(residual, residual)
            direction = _added(residual, torch.where(active, square / before, 0.0), direction)
        return found


def _dot(one: Tensors, other: Tensors) -> Tensor:
    """Return each task's inner product, ``[T]``."""
    # Added in sequence: a sum over stacked parts rounds differently at other batch sizes.
    return reduce(torch.add, [(one[key] * other[key]).flatten(1).sum(1) for key in one])


def _added(base: Tensors, scale: Tensor, change: Tensors) -> Tensors:
    """Return ``base + scale * change``, with a number per task."""
    return {
        key: torch.addcmul(value, scale.view(-1, *[1] * (value.dim() - 1)), change[key])
        for key, value in base.items()
    }
