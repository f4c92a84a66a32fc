"""Reptile: steps from the initial weights towards the weights after plain training on a task."""

from collections.abc import Callable, Iterator
from itertools import chain, count, islice, repeat
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from typing_extensions import override

from fedmeta.about import About
from fedmeta.errors import ConfigError, DataError
from fedmeta.learning.algorithm import Model, Tensors
from fedmeta.learning.inner import Gradient, InnerOptions, WeightAdaptation, leaves, sgd_step
from fedmeta.learning.local import KeyRule
from fedmeta.tasks import MASK, Examples, TaskBatch, TaskSpec, stream

Update = Callable[[Tensors, Tensors], Tensors]

SECOND, WEIGHT = "@adam.second.", "@adam.weight"
"""Prefix of Adam's carried moments in the state, and the key of their total weight."""


class Reptile(WeightAdaptation):
    """Reptile: the pseudo-gradient ``theta - U_k(theta)``, first order.

    Nichol, Achiam, Schulman 2018, "On First-Order Meta-Learning Algorithms", Algorithm 2 (its batched
    version is the server's mean): ``U_k`` is k steps of SGD or Adam on the task. Support and query are
    one training set here, as the paper's train-shots; the paper's Adam has ``beta1 = 0`` (appendix A).
    Adam restarts in every task, unless ``carry_moments`` is set. Minibatches are cut from consecutive
    shuffled passes over the examples and may span two passes; pass i has the same shuffle for every
    task.
    """

    about = About(
        paper='Nichol, Achiam, Schulman 2018, "On First-Order Meta-Learning Algorithms"',
        year=2018,
        family="gradient",
        learns="initial weights",
        sends="the change of the weights by the inner steps, and of Adam's moments if it carries them",
    )

    class Options(InnerOptions):
        """Options of Reptile.

        Attributes:
            inner_optimizer: Optimizer of the inner steps.
            inner_batch: Examples per inner step; None: all examples of the task.
            beta1: Inner Adam's decay of the gradient's running mean.
            beta2: Inner Adam's decay of the squared gradient's running mean.
            carry_moments: Whether inner Adam keeps its mean of squared gradients from task to task, as
                in the authors' code: clients start from the average of what the last round's clients
                ended with. Otherwise Adam restarts in every task, and its first step is a sign step.
        """

        inner_optimizer: Literal["sgd", "adam"] = "sgd"
        inner_batch: PositiveInt | None = None
        beta1: float = Field(default=0.0, ge=0, lt=1)
        beta2: float = Field(default=0.999, ge=0, lt=1)
        carry_moments: bool = False

    options: Options

    def __init__(
        self, options: Options, model: Model, spec: TaskSpec, transductive: bool = True
    ) -> None:
        if options.carry_moments and (options.inner_optimizer != "adam" or options.beta1 != 0):
            raise ConfigError(
                "learner.carry_moments needs learner.inner_optimizer = 'adam' and learner.beta1 = 0"
            )
        super().__init__(options, model, spec, transductive)

    @override
    def init(self, generator: torch.Generator) -> Tensors:
        """Draw the initial weights; carried moments and their weight start at 0."""
        weights = super().init(generator)
        if not self.options.carry_moments:
            return weights
        moments = {SECOND + key: torch.zeros_like(value) for key, value in weights.items()}
        return weights | moments | {WEIGHT: torch.zeros(1)}

    @override
    def key_rule(self, key: str) -> KeyRule:
        """Add the mean change of carried moments; the server's optimizer only steps the weights."""
        return KeyRule("add") if key.startswith((SECOND, WEIGHT)) else KeyRule()

    @override
    def weights(self, state: Tensors) -> Tensors:
        """Return the model's weights in the state, without Adam's moments."""
        return {key: value for key, value in state.items() if not key.startswith((SECOND, WEIGHT))}

    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Return ``theta - theta_k``; the loss after is on the query set, which was trained on too."""
        step = self._optimizer(state)
        walk = islice(self._walk(state, tasks.all_examples, step), self.options.inner_steps)
        adapted, first, first_seen = next(walk)
        for adapted, _, _ in walk:  # noqa: B007 (the last one counts)
            pass
        with torch.no_grad():
            prediction = self.predict(state, adapted, tasks.query, transductive=True)
            loss = self.objective.loss(prediction, tasks.query)
            updates = {key: state[key] - adapted[key] for key in adapted}
            if isinstance(step, Adam):
                updates |= {key: value - state[key] for key, value in step.moments.items()}
        before = first.loss, first.prediction, first_seen
        return updates, self.metrics(before, (loss, prediction, tasks.query))

    def descend(self, state: Tensors, support: Examples) -> Iterator[Tensors]:
        """Yield the weights after 0, 1, 2, ... steps of the inner optimizer."""
        yield {key: value.detach() for key, value in self.weights(state).items()}
        for params, _, _ in self._walk(state, support, self._optimizer(state)):
            yield params

    def _walk(
        self, state: Tensors, examples: Examples, step: Update
    ) -> Iterator[tuple[Tensors, Gradient, Examples]]:
        """Yield for each step the new weights, the gradient that led there and its examples."""
        if MASK in examples and self.options.inner_batch is not None:
            raise DataError("learner.inner_batch needs tasks of equal size: unset it for ragged tasks")
        params = self.weights(state)
        size = next(iter(examples.values())).shape[1]
        for rows in minibatches(size, self.options.inner_batch):
            batch = examples if rows is None else {k: v[:, rows] for k, v in examples.items()}
            with torch.enable_grad():
                inner = self.inner_gradient(leaves(params), batch)
            with torch.no_grad():
                params = step(params, inner.values)
            yield params, inner, batch

    def _optimizer(self, state: Tensors) -> Update:
        rate = self.options.inner_lr
        if self.options.inner_optimizer == "adam":
            return Adam(rate, self.options.beta1, self.options.beta2, state)
        return lambda params, grads: sgd_step(params, grads, rate)


class Adam:
    """Adam with its moments per task (Kingma, Ba 2015, Algorithm 1; ``eps = 1e-8``).

    The bias correction of carried moments ``v`` is ``v / w``, where their total weight ``w`` follows
    the same recursion, ``w <- beta2 w + (1 - beta2)``. From ``w = 0`` this is Adam's own
    ``1 - beta2^t``, and ``v / w`` stays a mean of squared gradients when a server averages both.
    """

    def __init__(self, rate: float, beta1: float, beta2: float, state: Tensors) -> None:
        self._rate = rate
        self._beta1 = beta1
        self._beta2 = beta2
        self._steps = 0
        self._first: Tensors = {}
        # Privacy noise can make a mean of squares negative.
        self._second = {
            key.removeprefix(SECOND): value.clamp(min=0)
            for key, value in state.items()
            if key.startswith(SECOND)
        }
        self._weight = state[WEIGHT].clamp(min=0) if WEIGHT in state else None

    @property
    def moments(self) -> Tensors:
        """The carried moments by their keys in the state; empty if Adam restarts."""
        if self._weight is None:
            return {}
        return {SECOND + key: value for key, value in self._second.items()} | {WEIGHT: self._weight}

    def __call__(self, params: Tensors, grads: Tensors) -> Tensors:
        """Return the parameters after one step along `grads`."""
        self._steps += 1
        rate = self._rate / (1 - self._beta1**self._steps)
        if self._weight is not None:
            self._weight = self._beta2 * self._weight + (1 - self._beta2)
        stepped: Tensors = {}
        for key, grad in grads.items():
            correction = self._correction(grad.dim())
            first = self._beta1 * self._first.get(key, 0.0) + (1 - self._beta1) * grad
            second = self._beta2 * self._second.get(key, 0.0) + (1 - self._beta2) * grad.square()
            self._first[key], self._second[key] = first, second
            stepped[key] = torch.addcdiv(
                params[key], first, (second / correction).sqrt() + 1e-8, value=-rate
            )
        return stepped

    def _correction(self, dimensions: int) -> float | Tensor:
        if self._weight is None:
            return 1 - self._beta2**self._steps
        return self._weight.view(-1, *[1] * (dimensions - 1))


def minibatches(examples: int, size: int | None) -> Iterator[list[int] | None]:
    """Yield the example indices of each step, without end; None means all examples.

    The stream of shuffled passes is cut every `size` examples, so a batch may span two passes. The
    shuffle of pass i depends only on i, as the order of a task's examples is random already.
    """
    if size is None or size >= examples:
        yield from repeat(None)
    rows = chain.from_iterable(stream(0, "pass", i).permutation(examples).tolist() for i in count())
    while True:
        yield list(islice(rows, size))
