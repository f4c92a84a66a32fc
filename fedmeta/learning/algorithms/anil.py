"""ANIL: MAML whose inner loop adapts only the head."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from fedmeta.about import About
from fedmeta.learning.algorithm import Model, Tensors
from fedmeta.learning.algorithms.maml import MAML
from fedmeta.learning.head import apply_head, body_of, find_head
from fedmeta.learning.inner import Gradient, gradients, leaves, sgd_step
from fedmeta.tasks import Examples, TaskBatch, TaskSpec


class ANIL(MAML):
    """ANIL, almost no inner loop: a task adapts only the head; the outer loop learns body and head.

    Raghu, Raghu, Bengio, Vinyals 2020, "Rapid Learning or Feature Reuse? Towards Understanding the
    Effectiveness of MAML", section 4: an inner step is ``head' = head - alpha grad_head L_support``. The
    meta-gradient of ``L_query(body, head')`` is exact and covers all weights.

    The body's features do not change in the inner loop, so a model with a `Model.body` computes them
    once, whatever the number of steps.

    Raises:
        ConfigError: If the model does not end in a linear head.
    """

    about = About(
        paper="Raghu, Raghu, Bengio, Vinyals 2020, "
        '"Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of MAML"',
        year=2020,
        family="gradient",
        learns="initial weights; a task adapts only the head",
        sends="the meta-gradient of the weights",
    )

    def __init__(self, options: Any, model: Model, spec: TaskSpec, transductive: bool = True) -> None:
        super().__init__(options, model, spec, transductive)
        self._head = find_head(model, spec, "algorithm 'anil' adapts the head alone")
        self._body = body_of(model, self.objective)

    @override
    @torch.enable_grad()
    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Return each task's meta-gradient; the loss before adaptation is that of the support set."""
        if self._body is None:
            return super().task_updates(state, tasks)
        source = leaves(state)
        support_x = self.statistics(self.context(tasks.support))
        features = self.objective.forward(self._body, source, tasks.support, once=True)
        query = self.objective.forward(self._body, source, tasks.query, support_x, once=True)
        head = {key: source[key] for key in self._head}
        first = inner = self._head_gradient(head, features, tasks.support, create_graph=True)
        for step in range(self.options.inner_steps):
            if step:
                inner = self._head_gradient(head, features, tasks.support, create_graph=True)
            head = sgd_step(head, inner.values, self.options.inner_lr)
        prediction = apply_head(head, query)
        loss = self.objective.loss(prediction, tasks.query)
        metrics = self.metrics(
            (first.loss, first.prediction, tasks.support), (loss, prediction, tasks.query)
        )
        return gradients(loss, source), metrics

    @override
    def inner_gradient(
        self, params: Tensors, examples: Examples, create_graph: bool = False
    ) -> Gradient:
        """Return the gradient of the loss on `examples` for the head; the body's is 0."""
        prediction = self.objective.forward(self.model, params, examples, once=not create_graph)
        loss = self.objective.loss(prediction, examples)
        body = {key: torch.zeros_like(value) for key, value in params.items()}
        head = {key: params[key] for key in self._head}
        return Gradient(body | gradients(loss, head, create_graph), loss, prediction)

    @override
    def descend(self, state: Tensors, support: Examples) -> Iterator[Tensors]:
        """Yield the weights after 0, 1, 2, ... steps; the body's are those of the state."""
        if self._body is None:
            yield from super().descend(state, support)
            return
        weights = {key: value.detach() for key, value in state.items()}
        yield weights
        with torch.no_grad():
            features = self.objective.forward(self._body, weights, support)
        while True:
            with torch.enable_grad():
                head = leaves({key: weights[key] for key in self._head})
                inner = self._head_gradient(head, features, support)
            with torch.no_grad():
                weights = weights | sgd_step(head, inner.values, self.options.inner_lr)
            yield weights

    def _head_gradient(
        self, head: Tensors, features: Tensor, support: Examples, create_graph: bool = False
    ) -> Gradient:
        prediction = apply_head(head, features)
        loss = self.objective.loss(prediction, support)
        return Gradient(gradients(loss, head, create_graph), loss, prediction)
