"""FedAvg: federated averaging, the baseline with one model for all."""

from collections.abc import Iterator

import torch
from typing_extensions import override

from fedmeta.about import About
from fedmeta.learning.algorithm import Model, Tensors
from fedmeta.learning.head import find_head, new_head
from fedmeta.learning.inner import AdaptationOptions, WeightAdaptation, leaves, one_step
from fedmeta.tasks import Examples, TaskBatch, TaskSpec


class FedAvg(WeightAdaptation):
    """FedAvg: the plain gradient on all of a task's examples; no adaptation while training.

    McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    Algorithm 1: this is one local step's gradient; the client repeats it (``local_steps``), the server
    averages. At test the model is fine-tuned on the support set by gradient descent with ``inner_lr``.

    Where the classes of test tasks were not trained on (``data.labels = "global"``), each test task gets
    a new head, as in ``pretrained``; otherwise the trained head is fine-tuned.

    Raises:
        ConfigError: If a head has to be replaced and the model does not end in one.
    """

    about = About(
        paper="McMahan, Moore, Ramage, Hampson, Aguera y Arcas 2017, "
        '"Communication-Efficient Learning of Deep Networks from Decentralized Data"',
        year=2017,
        family="baseline",
        learns="one model for all",
        sends="the change of the weights by local steps",
    )

    class Options(AdaptationOptions):
        """Options of FedAvg.

        Attributes:
            inner_lr: Step size of fine-tuning on the support set, only used at test.
        """

    def __init__(
        self, options: AdaptationOptions, model: Model, spec: TaskSpec, transductive: bool = True
    ) -> None:
        super().__init__(options, model, spec, transductive)
        self._head = (
            find_head(model, spec, "each test task gets a new head") if self.replaces_head(spec) else {}
        )

    @staticmethod
    def replaces_head(spec: TaskSpec) -> bool:
        """Return whether each test task gets a new head."""
        return spec.new_classes

    @property
    @override
    def max_ways(self) -> int | None:
        """Largest number of classes at test; no limit where a task gets a new head."""
        return None if self._head else super().max_ways

    @torch.enable_grad()
    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Return each task's gradient on support and query together; before and after are the same."""
        examples = tasks.all_examples
        made = self.objective.gradient(self.model, leaves(state), examples)
        judged = made.loss, made.prediction, examples
        return made.values, self.metrics(judged, judged)

    @override
    def descend(self, state: Tensors, support: Examples) -> Iterator[Tensors]:
        """Yield the weights after 0, 1, 2, ... steps, with a new head if needed."""
        if self._head:
            state = self.begin_stream(state, support, int(support["y"].max()) + 1)
        return super().descend(state, support)

    @override
    def begin_stream(self, state: Tensors, like: Examples, ways: int) -> Tensors:
        """Return the weights before the first example, with a new head if needed."""
        weights = super().begin_stream(state, like, ways)
        return weights | (new_head(weights, self._head, ways) if self._head else {})

    @override
    def learn(self, state: Tensors, known: Tensors, examples: Examples) -> Tensors:
        """Return the weights after a step with the head that the stream began with."""
        return one_step(super().descend(state | known, examples))
