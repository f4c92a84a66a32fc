"""Supervised pretraining, then fine-tuning: the baseline without tasks."""

from typing import Any

from typing_extensions import override

from fedmeta.about import About
from fedmeta.errors import ConfigError
from fedmeta.learning.algorithm import Model
from fedmeta.learning.algorithms.fedavg import FedAvg
from fedmeta.tasks import TaskSpec, build_objective


class Pretrained(FedAvg):
    """Pretraining: the plain gradient on all of a task's examples, pooled; fine-tuned at test.

    Regression and text: all pretrained weights are fine-tuned on the support set (Finn et al. 2017,
    "Model-Agnostic Meta-Learning", section 5.1, "pretraining on all of the tasks").

    Classification with a label per example: training needs labels that mean the same in all tasks
    (``data.labels = "global"``). The classes of a test task are new, and so is its head: it starts at 0
    with as many outputs as the task has ways, so that the prediction before any step is uniform (Chen
    et al. 2019, "A Closer Look at Few-shot Classification", section 3.2, "Baseline"; there the features
    then stay fixed, here all weights are fine-tuned).

    Raises:
        ConfigError: If labels differ in meaning between training tasks, or a head has to be replaced
            and the model does not end in one.
    """

    about = About(
        paper='Chen, Liu, Kira, Wang, Huang 2019, "A Closer Look at Few-shot Classification"',
        year=2019,
        family="baseline",
        learns="one model for all, with a new head per task",
        sends="the change of the weights by local steps",
    )

    def __init__(self, options: Any, model: Model, spec: TaskSpec, transductive: bool = True) -> None:
        if spec.own_labels:
            raise ConfigError(
                "algorithm 'pretrained' needs labels that mean the same in all training tasks: "
                "set data.labels = 'global'"
            )
        super().__init__(options, model, spec, transductive)

    @staticmethod
    @override
    def replaces_head(spec: TaskSpec) -> bool:
        """Return whether the tasks are classification with a label per example."""
        return build_objective(spec).labels and not spec.vocabulary
