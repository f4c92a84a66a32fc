"""BOIL: MAML whose inner loop adapts only the body."""

from typing import Any

from typing_extensions import override

from fedmeta.about import About
from fedmeta.learning.algorithm import Model, Tensors
from fedmeta.learning.algorithms.maml import MAML
from fedmeta.learning.head import find_head
from fedmeta.tasks import TaskSpec


class BOIL(MAML):
    """BOIL: the inner loop adapts the body and leaves the head; the outer loop learns both.

    Oh, Yoo, Kim, Yun 2021, "BOIL: Towards Representation Change for Few-shot Learning", section 3: MAML
    whose inner learning rate is ``inner_lr`` for the body and 0 for the head.

    Raises:
        ConfigError: If the model does not end in a linear head.
    """

    about = About(
        paper='Oh, Yoo, Kim, Yun 2021, "BOIL: Towards Representation Change for Few-shot Learning"',
        year=2021,
        family="gradient",
        learns="initial weights; a task adapts only the body",
        sends="the meta-gradient of the weights",
    )

    def __init__(self, options: Any, model: Model, spec: TaskSpec, transductive: bool = True) -> None:
        super().__init__(options, model, spec, transductive)
        self._head = find_head(model, spec, "algorithm 'boil' adapts all but the head")

    @override
    def rates(self, state: Tensors) -> Tensors:
        """Return ``inner_lr`` for the body and 0 for the head; each is a scalar, expanded."""
        rate = self.options.inner_lr
        return {
            key: value.new_full((), 0.0 if key in self._head else rate).expand_as(value)
            for key, value in state.items()
        }
