"""Inner-loop gradient descent."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.learning.algorithm import SUPPORT_X, Algorithm, Tensors
from fedmeta.tasks import Examples, TaskBatch
from fedmeta.tasks.objective import Gradient, gradients, leaves

__all__ = [
    "SUPPORT_X",
    "AdaptationOptions",
    "Gradient",
    "InnerOptions",
    "WeightAdaptation",
    "gradients",
    "leaves",
    "one_step",
    "sgd_step",
]


class AdaptationOptions(options.Options):
    """Options of adaptation by gradient descent on a support set.

    Attributes:
        inner_lr: Step size.
    """

    inner_lr: float = Field(default=0.01, gt=0)


class InnerOptions(AdaptationOptions):
    """Options of an inner loop of plain gradient descent.

    Attributes:
        inner_lr: Step size of the inner loop; in ``meta_sgd``, its initial value for each weight.
        inner_steps: Inner steps in training; at test, ``evaluation.steps`` sets them.
    """

    inner_steps: int = Field(default=1, ge=1)


def sgd_step(params: Tensors, grads: Tensors, rate: float | Tensors) -> Tensors:
    """Return ``params - rate * grads``; `rate` is one number or a tensor per parameter."""
    if isinstance(rate, float):
        # The same bits as a subtraction, whose derivative negates and scales in two passes.
        return {key: torch.add(value, grads[key], alpha=-rate) for key, value in params.items()}
    return {key: torch.addcmul(value, rate[key], grads[key], value=-1) for key, value in params.items()}


def one_step(path: Iterator[Tensors]) -> Tensors:
    """Return the weights after the first step of a descent."""
    return next(islice(path, 1, None))


class WeightAdaptation(Algorithm):
    """Base class of algorithms that adapt by gradient descent on the support loss.

    Subclasses add `task_updates`, and may override `weights` and `rates`, or `descend`.
    """

    options: AdaptationOptions

    def init(self, generator: torch.Generator) -> Tensors:
        """Draw the model's initial weights."""
        return self.model.init(generator)

    def weights(self, state: Tensors) -> Tensors:
        """Return the model's weights in the state."""
        return state

    def rates(self, state: Tensors) -> float | Tensors:  # noqa: ARG002 (for those that learn them)
        """Return the inner learning rate: one number, or a tensor per weight."""
        return self.options.inner_lr

    def inner_gradient(
        self, params: Tensors, examples: Examples, create_graph: bool = False
    ) -> Gradient:
        """Return the gradient of the loss on `examples` for `params`, which must require gradients."""
        return self.objective.gradient(self.model, params, examples, create_graph)

    @torch.enable_grad()
    def query_gradient(self, weights: Tensors, tasks: TaskBatch) -> Gradient:
        """Return the gradient of the query loss for adapted weights, without a graph."""
        weights = leaves(weights)
        support_x = self.statistics(self.context(tasks.support))
        prediction = self.objective.forward(self.model, weights, tasks.query, support_x, once=True)
        loss = self.objective.loss(prediction, tasks.query)
        return Gradient(gradients(loss, weights), loss.detach(), prediction.detach())

    def descend(self, state: Tensors, support: Examples) -> Iterator[Tensors]:
        """Yield the weights after 0, 1, 2, ... steps, without end and without a graph."""
        params = self.weights(state)
        rates = self.rates(state)
        while True:
            params = {key: value.detach() for key, value in params.items()}
            yield params
            with torch.enable_grad():
                params = leaves(params)
                grads = self.inner_gradient(params, support).values
            with torch.no_grad():
                params = sgd_step(params, grads, rates)

    def adapt(self, state: Tensors, support: Examples, steps: int) -> Tensors:
        """Return the weights after `steps` inner steps, which may be more than in training."""
        return next(self.trajectory(state, support, [steps]))[1]

    def trajectory(
        self, state: Tensors, support: Examples, steps: Sequence[int]
    ) -> Iterator[tuple[int, Tensors]]:
        """Yield the weights after each of the increasing `steps` of one descent."""
        context = self.context(support)
        wanted = set(steps)
        for step, params in enumerate(self.descend(state, support)):
            if step in wanted:
                yield step, {**params, **context}
            if step >= max(wanted, default=0):
                return

    def begin_stream(
        self,
        state: Tensors,
        like: Examples,  # noqa: ARG002 (for those that embed)
        ways: int,  # noqa: ARG002 (for new heads)
    ) -> Tensors:
        """Return the weights before the first example; see `fedmeta.learning.online.StreamLearner`."""
        return {key: value.detach() for key, value in self.weights(state).items()}

    def learn(self, state: Tensors, known: Tensors, examples: Examples) -> Tensors:
        """Return the weights after the inner loop's first step from `known` on `examples`.

        What an inner loop keeps between its steps, such as Adam's moments, starts anew.
        """
        return one_step(self.descend(state | known, examples))

    @override
    def predict(
        self,
        state: Tensors,
        adapted: Tensors,
        examples: Examples,
        transductive: bool | None = None,
    ) -> Tensor:
        """Predict with adapted weights; see `Algorithm.predict`."""
        params = {key: value for key, value in adapted.items() if key != SUPPORT_X}
        return self.objective.forward(
            self.model, params, examples, self.statistics(adapted, transductive)
        )
