"""Ordinary supervised training, then fine-tuning: the baseline that knows of no tasks."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from fedmeta.errors import ConfigError
from fedmeta.learning.algorithms.fedavg import FedAvg
from fedmeta.learning.base import ALGORITHMS, Model, Tensors, expand_state
from fedmeta.tasks import TaskSpec, torch_generator


@ALGORITHMS.register("pretrained")
class Pretrained(FedAvg):
    """Pretraining: the plain gradient on all of a task's examples, pooled; fine-tuned at test.

    Regression and text: all weights are fine-tuned on the support set from where pretraining left them
    (Finn et al. 2017, "Model-Agnostic Meta-Learning", section 5.1, "pretraining on all of the tasks").

    Classification with a label per example: training needs labels that mean the same in all tasks
    (``data.labels = "global"``). The classes of a test task are new, and so is its head: it starts at 0
    with as many outputs as the task has ways, so that the prediction before any step is uniform (Chen
    et al. 2019, "A Closer Look at Few-shot Classification", section 3.2, "Baseline"; there the features
    then stay fixed, here all weights are fine-tuned).

    Raises:
        ConfigError: If labels mean something else in each training task, or a head has to be replaced
            and the model's last layer is none.
    """

    def __init__(self, options: Any, model: Model, spec: TaskSpec, transductive: bool = True) -> None:
        super().__init__(options, model, spec, transductive)
        if spec.own_labels:
            raise ConfigError(
                "algorithm 'pretrained' needs labels that mean the same in all training tasks: "
                "set data.labels = 'global'"
            )
        new_classes = spec.kind == "classification" and not spec.vocabulary
        self._head = find_head(model, spec) if new_classes else {}

    @property
    @override
    def max_ways(self) -> int | None:
        """Any number where a task gets a new head."""
        return None if self._head else super().max_ways

    @override
    def descend(self, state: Tensors, x: Tensor, y: Tensor) -> Iterator[Tensors]:
        """Yield the weights after 0, 1, 2, ... steps; those of a new head come first."""
        if self._head:
            state = state | new_head(state, self._head, int(y.max()) + 1)
        return super().descend(state, x, y)


def find_head(model: Model, spec: TaskSpec) -> dict[str, int]:
    """Find the parameters of a model's head by what they do: all 0, they must make all outputs 0.

    Returns:
        For each parameter of the head its axis of outputs, counted from the end: the last one of
        ``[in, out]`` as in fedmeta's models, or the first one of ``[out, in]`` as in `torch.nn`.

    Raises:
        ConfigError: If the layer that was declared last is no head whose number of outputs can change.
    """
    params = model.init(torch_generator(0, "head"))
    layer = _layer_of(list(params)[-1])
    names = [name for name in params if _layer_of(name) == layer]
    for axes in (dict.fromkeys(names, -1), {name: -params[name].dim() for name in names}):
        if _is_head(model, params, axes, spec):
            return axes
    raise ConfigError(
        f"algorithm 'pretrained' gives each task a new head, but the model's last layer, '{layer}', "
        "is none: declare a linear layer last, whose outputs are the model's"
    )


def new_head(params: Tensors, axes: dict[str, int], outputs: int) -> Tensors:
    """Return a head of zeros with `outputs` outputs, for each task of ``params [T, ...]``."""
    sizes = {name: list(params[name].shape) for name in axes}
    for name, axis in axes.items():
        sizes[name][axis] = outputs
    return {name: params[name].new_zeros(size) for name, size in sizes.items()}


def _layer_of(name: str) -> str:
    return name.rpartition(".")[0]


def _is_head(model: Model, params: Tensors, axes: dict[str, int], spec: TaskSpec) -> bool:
    outputs = model.outputs + 1
    x = torch.randn(1, 2, *spec.input_shape, generator=torch_generator(0, "head", "inputs"))
    weights = expand_state(params, 1)
    try:
        with torch.no_grad():
            made = model.forward(weights | new_head(weights, axes, outputs), x)
    except Exception:
        # A user's module may fail in any way if a layer of it has another shape.
        return False
    return made.shape[-1] == outputs and not bool(made.any())
