"""Model-agnostic meta-learning."""

import torch

from fedmeta.about import About
from fedmeta.learning.algorithm import Tensors
from fedmeta.learning.inner import (
    Gradient,
    InnerOptions,
    WeightAdaptation,
    gradients,
    leaves,
    sgd_step,
)
from fedmeta.learning.native.kernel import InnerLoop, Kernel
from fedmeta.tasks import TaskBatch


class MAML(WeightAdaptation):
    """MAML: the gradient of the query loss *through* the inner gradient steps.

    Finn, Abbeel, Levine 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
    equation 1 and Algorithm 2: inner steps ``theta' = theta - alpha grad L_support(theta)``, and the
    meta-gradient ``grad_theta L_query(theta')`` with its second derivatives. The state is ``theta``.
    """

    about = About(
        paper="Finn, Abbeel, Levine 2017, "
        '"Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks"',
        year=2017,
        family="gradient",
        learns="initial weights",
        sends="the meta-gradient of the weights",
    )
    Options = InnerOptions
    options: InnerOptions
    second_order = True

    @torch.enable_grad()
    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Return each task's meta-gradient; the loss before adaptation is that of the support set."""
        kernel = self._unrolling_kernel(state, tasks)
        if kernel is not None:
            return self._native_updates(kernel, state, tasks)
        source = leaves(state)
        adapted, before = self._inner_loop(source, tasks)
        support_x = self.statistics(self.context(tasks.support))
        prediction = self.objective.forward(self.model, adapted, tasks.query, support_x)
        loss = self.objective.loss(prediction, tasks.query)
        updates = gradients(loss, source if self.second_order else adapted)
        metrics = self.metrics(
            (before.loss, before.prediction, tasks.support), (loss, prediction, tasks.query)
        )
        return updates, metrics

    def meta_updates(self, weights: Tensors, rates: Tensors) -> Tensors:  # noqa: ARG002 (see Meta-SGD)
        """Return meta-gradients by the keys of the state, given those of weights and learning rates."""
        return weights

    def _unrolling_kernel(self, state: Tensors, tasks: TaskBatch) -> Kernel | None:
        """Return the kernel of the whole inner loop; None if there is none, or a subclass changes it."""
        usual = all(
            getattr(type(self), name) is getattr(MAML, name)
            for name in ("inner_gradient", "_inner_loop", "_step")
        )
        kernel = self.model.kernel
        if kernel is None or not usual:
            return None
        weights, rates = self.weights(state), self.rates(state)
        learned = {} if isinstance(rates, float) else rates
        fits = (
            kernel.takes_loss(self.objective, weights, tasks.support)
            and kernel.takes_loss(self.objective, weights, tasks.query)
            and (not learned or kernel.takes(learned, tasks.support["x"]))
            and self.meta_updates(weights, learned).keys() == state.keys()
        )
        return kernel if fits else None

    def _native_updates(
        self, kernel: Kernel, state: Tensors, tasks: TaskBatch
    ) -> tuple[Tensors, Tensors]:
        loop = InnerLoop(
            self.rates(state),
            self.options.inner_steps,
            self.second_order,
            inductive=self.model.batch_norm and not self.transductive,
        )
        weights = self.weights(state)
        made = kernel.unroll(self.objective, weights, tasks.support, tasks.query, loop)
        found = self.meta_updates(made.updates, made.rates)
        metrics = self.metrics(
            (made.loss_before, made.prediction_before, tasks.support),
            (made.loss, made.prediction, tasks.query),
        )
        return {key: found[key] for key in state}, metrics

    def _inner_loop(self, source: Tensors, tasks: TaskBatch) -> tuple[Tensors, Gradient]:
        """Return the adapted weights, and the first step's gradient with its prediction."""
        weights, rates = self.weights(source), self.rates(source)
        inner = first = self.inner_gradient(weights, tasks.support, self.second_order)
        weights = self._step(weights, inner, rates)
        for _ in range(1, self.options.inner_steps):
            inner = self.inner_gradient(weights, tasks.support, self.second_order)
            weights = self._step(weights, inner, rates)
        return weights, first

    def _step(self, weights: Tensors, inner: Gradient, rates: float | Tensors) -> Tensors:
        stepped = sgd_step(weights, inner.values, rates)
        return stepped if self.second_order else leaves(stepped)
