"""ANIL: MAML whose inner loop adapts the last layer alone."""

from torch import zeros_like
from typing_extensions import override

from fedmeta.learning import Tensors
from fedmeta.learning.algorithms import MAML
from fedmeta.learning.inner import Gradient, gradients
from fedmeta.tasks import Examples


class ANIL(MAML):
    """MAML with a frozen body in the inner loop: a task adapts only the head.

    Raghu, Raghu, Bengio, Vinyals 2020, "Rapid Learning or Feature Reuse?", section 4: an inner step is
    ``head' = head - alpha grad_head L_support(body, head)``; the meta-gradient
    ``grad L_query(body, head')`` is taken with respect to all weights, through the inner steps. The
    model's head must be called ``head``.
    """

    @override
    def inner_gradient(
        self, params: Tensors, examples: Examples, create_graph: bool = False
    ) -> Gradient:
        """Differentiate the loss on `examples` with respect to the head; the body's gradient is 0."""
        prediction = self.objective.forward(self.model, params, examples)
        loss = self.objective.loss(prediction, examples)
        head = {key: value for key, value in params.items() if key.startswith("head.")}
        body = {key: zeros_like(value) for key, value in params.items()}
        return Gradient(body | gradients(loss, head, create_graph), loss, prediction)
