"""The last linear layer of a network, its head, and the rest, its body."""

import torch
from torch import Tensor

from fedmeta.errors import ConfigError
from fedmeta.learning.algorithm import Model, Tensors, expand_state
from fedmeta.learning.layers import linear
from fedmeta.learning.native.kernel import KernelPlan, build_kernel
from fedmeta.tasks import TaskSpec, torch_generator
from fedmeta.tasks.objective import Objective


def find_head(model: Model, spec: TaskSpec, why: str) -> dict[str, int]:
    """Find the parameters of a model's head: when they are all 0, all outputs must be 0.

    Args:
        model: The network.
        spec: The shape of its tasks.
        why: What the head is needed for, at the start of a message.

    Returns:
        For each parameter of the head its axis of outputs, counted from the end: the last axis of
        ``[in, out]`` as in fedmeta's models, or the first of ``[out, in]`` as in `torch.nn`.

    Raises:
        ConfigError: If the last declared layer is not a head whose number of outputs can change.
    """
    params = model.init(torch_generator(0, "head"))
    layer = _layer_of(list(params)[-1])
    names = [name for name in params if _layer_of(name) == layer]
    for axes in (dict.fromkeys(names, -1), {name: -params[name].dim() for name in names}):
        if _is_head(model, params, axes, spec):
            return axes
    raise ConfigError(
        f"{why}, but the model's last layer, '{layer}', is not a head: "
        "declare last the linear layer that computes the outputs"
    )


def new_head(params: Tensors, axes: dict[str, int], outputs: int) -> Tensors:
    """Return a head of zeros with `outputs` outputs, for each task of ``params [T, ...]``."""
    sizes = {name: list(params[name].shape) for name in axes}
    for name, axis in axes.items():
        sizes[name][axis] = outputs
    return {name: params[name].new_zeros(size) for name, size in sizes.items()}


def apply_head(params: Tensors, features: Tensor) -> Tensor:
    """Apply the head that a `Model.body` lacks to features ``[T, ..., D]``: ``[T, ..., outputs]``."""
    rows = features.flatten(1, -2)
    return linear(params, "head", rows).view(*features.shape[:-1], -1)


def body_of(model: Model, objective: Objective) -> Model | None:
    """Return a model's body with its kernels; None if it has none, or the objective predicts otherwise.

    An objective that overrides `forward` may not compute its outputs by applying the head to features.
    """
    body = model.body()
    if body is None or type(objective).forward is not Objective.forward:
        return None
    if model.kernel is not None:
        plan: KernelPlan | None = body.kernel_plan()  # type: ignore[attr-defined]
        body.kernel = build_kernel(plan)
    return body


def _layer_of(name: str) -> str:
    return name.rpartition(".")[0]


def _is_head(model: Model, params: Tensors, axes: dict[str, int], spec: TaskSpec) -> bool:
    outputs = model.outputs + 1
    weights = expand_state(params, 1)
    x = spec.made_up(1, 2, torch_generator(0, "head", "inputs"))
    try:
        with torch.no_grad():
            made = model.forward(weights | new_head(weights, axes, outputs), x)
    except Exception:
        # A user's module may fail in any way if one of its layers has another shape.
        return False
    return made.shape[-1] == outputs and not bool(made.any())
