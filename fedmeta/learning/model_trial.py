"""Checks on a tiny batch that a network is a pure function with correct derivatives."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from fedmeta.errors import ConfigError
from fedmeta.learning.algorithm import Model, Tensors, expand_state
from fedmeta.learning.inner import gradients, leaves
from fedmeta.learning.module import ModuleModel
from fedmeta.tasks import torch_generator

EXAMPLES = 8
"""Examples of a task on which derivatives are checked."""
STEP = 1e-8
"""Step of finite differences, relative to the weights: so small that few ReLUs change sides."""
TRIES = 3
"""Directions to try: if a ReLU changes sides along one, it is unlikely to along the next."""
FIRST_ORDER = 1e-4
SECOND_ORDER = 1e-3
"""Largest relative difference between a derivative and finite differences."""


def try_model(model: Model, x: Tensor, dtype: torch.dtype, second_order: bool, name: str) -> None:
    """Check a user's network before a run.

    Args:
        model: The network.
        x: Inputs of two tasks or more, ``[T, B, *input]``.
        dtype: The run's dtype.
        second_order: Whether its second derivatives are needed.
        name: Its name in messages.

    Raises:
        ConfigError: If `forward` draws random numbers, keeps state, changes its inputs, mixes tasks or
            returns the wrong shape; if its `state_dict` is incomplete; or if a derivative differs from
            finite differences.
    """
    params = in_dtype(model.init(torch_generator(0, "trial")), dtype)
    try:
        _try_forward(model, params, x, name)
    except ConfigError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"{name} cannot read inputs of shape {list(x.shape[1:])} ({reason})") from None
    _try_derivatives(model, x[:1, :EXAMPLES], second_order, name)


def _try_forward(model: Model, params: Tensors, x: Tensor, name: str) -> None:
    """Require that `forward` is a function of weights and inputs, independently for each task."""
    with torch.no_grad():
        rows, given = _differing(params, len(x)), x.clone()
        if isinstance(model, ModuleModel):
            _require_no_writing(model, params, x[0])
        with no_random_numbers(name, model):
            first = model.forward(rows, x)
        if not torch.equal(x, given):
            raise ConfigError(f"{name} changes its inputs in place: copy them first")
        model.forward({k: v * 1.01 for k, v in rows.items()}, x.flip(0, 1))
        again = model.forward(rows, x)
        alone = model.forward({k: v[1:2] for k, v in rows.items()}, x[1:2])
        if first.shape[:2] != x.shape[:2] or first.shape[-1] != model.outputs:
            raise ConfigError(
                f"{name} returns shape {list(first.shape)} for inputs {list(x.shape)}: it must be "
                f"[tasks, examples, ..., {model.outputs}]"
            )
        if not bool(first.isfinite().all()):
            raise ConfigError(f"{name} returns NaN or infinity at its initial weights")
        if not torch.equal(first, again):
            raise ConfigError(
                f"{name} returns different outputs for the same inputs after another call: its forward "
                "keeps state or has its own random generator"
            )
        if _differ(first[1:2], alone):
            raise ConfigError(f"{name} mixes tasks: a task's result differs alone and in a batch")
        if isinstance(model, ModuleModel):
            _require_rebuildable(model, params, x[0], first[0])


def _require_no_writing(model: ModuleModel, params: Tensors, x: Tensor) -> None:
    dtype = next(iter(params.values())).dtype
    given = in_dtype(model.constants, dtype) | params
    held = {key: value.clone() for key, value in given.items()}
    model.call(held, x.clone())
    for key, value in given.items():
        if held[key].shape != value.shape or not torch.equal(held[key], value):
            kind = "parameter" if key in params else "buffer"
            raise ConfigError(
                f"{model.name} writes to its {kind} '{key}' in forward, which would leak one task's "
                "data into the next: recompute it in each call, or use batch statistics"
            )


def _require_rebuildable(model: ModuleModel, params: Tensors, x: Tensor, expected: Tensor) -> None:
    """Require that the constructor's random draws follow the seed, and that `state_dict` is complete."""
    one, two = (model.rebuilt(seed=1).state_dict() for _ in range(2))
    for key, value in one.items():
        if not torch.equal(value, two[key]):
            raise ConfigError(
                f"{model.name} draws '{key}' from its own random generator, which ignores the run's "
                "seed: use the global one of torch, NumPy or Python in the constructor"
            )
    other = model.rebuilt(seed=1).to(expected.dtype)
    try:
        other.load_state_dict(model.to_state_dict(params))
        again = other(x.clone())
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"{model.name} cannot be loaded from its own state_dict ({reason})") from None
    if _differ(again, expected):
        raise ConfigError(
            f"{model.name} uses random values that are not in its state_dict, so it cannot be exported: "
            "keep them with self.register_buffer"
        )


def _try_derivatives(model: Model, x: Tensor, second: bool, name: str) -> None:
    """Compare the model's derivatives with finite differences of a fixed function of its outputs."""
    params = expand_state(in_dtype(model.init(torch_generator(0, "trial")), torch.float64), 1)
    wide = x.double() if x.is_floating_point() else x
    try:
        with torch.no_grad():
            weights = torch.randn(
                model.forward(params, wide).shape,
                generator=torch_generator(0, "trial", "outputs"),
                dtype=torch.float64,
            )
    except Exception:
        # It only runs in float32, in which finite differences are too coarse.
        return

    def loss(at: Tensors) -> Tensor:
        made = model.forward(at, wide)
        return ((made * weights).mean() + made.square().mean() / 2).unsqueeze(0)

    try:
        first_error = min(_first_order_error(loss, params, attempt) for attempt in range(TRIES))
    except RuntimeError as error:
        raise ConfigError(f"{name} has no gradient ({str(error).splitlines()[0].rstrip('.')})") from None
    if first_error > FIRST_ORDER:
        raise ConfigError(_wrong(name, "gradient", first_error))
    if not second:
        return
    try:
        second_error = min(_second_order_error(loss, params, attempt) for attempt in range(TRIES))
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"{name} has no second derivative ({reason}): choose a first-order algorithm, such as "
            "fomaml, or another layer"
        ) from None
    if second_error > SECOND_ORDER:
        raise ConfigError(_wrong(name, "second derivative", second_error))


def _wrong(name: str, what: str, error: float) -> str:
    return (
        f"{name} has a {what} that differs from finite differences by {error:.2g} of its size; "
        "if that is intended (e.g. a straight-through estimator), skip this check with --no-check"
    )


Loss = Callable[[Tensors], Tensor]


def _first_order_error(loss: Loss, params: Tensors, attempt: int) -> float:
    direction = _direction(params, attempt)
    at = leaves(params)
    slope = _dot(gradients(loss(at), at), direction)
    with torch.no_grad():
        ahead, behind = (float(loss(_moved(params, direction, by))) for by in (STEP, -STEP))
    scale = max(abs(slope), 0.01 * abs(ahead), 1e-8)
    return abs((ahead - behind) / (2 * STEP) - slope) / scale


def _second_order_error(loss: Loss, params: Tensors, attempt: int) -> float:
    direction = _direction(params, attempt)
    at = leaves(params)
    slopes = gradients(loss(at), at, create_graph=True)
    along = sum((slopes[key] * direction[key]).sum() for key in slopes)
    product = (
        gradients(along.unsqueeze(0), at) if isinstance(along, Tensor) and along.requires_grad else {}
    )

    def slope_at(by: float) -> Tensors:
        moved = leaves(_moved(params, direction, by))
        return gradients(loss(moved), moved)

    ahead, behind = slope_at(STEP), slope_at(-STEP)
    measured = {key: (ahead[key] - behind[key]) / (2 * STEP) for key in ahead}
    # The error of a tensor with a tiny derivative is relative to the scale of the others.
    floor = max(1e-3 * max(float(value.norm()) for value in measured.values()), 1e-6)
    errors = [
        float((value - product.get(key, torch.zeros_like(value))).norm())
        / max(float(value.norm()), floor)
        for key, value in measured.items()
    ]
    return max(errors)


def _direction(params: Tensors, attempt: int) -> Tensors:
    """Return a random direction that changes each tensor by its own size."""
    generator = torch_generator(attempt, "trial", "direction")
    drawn = {k: torch.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in params.items()}
    return {k: v * (float(params[k].norm()) or 1.0) / float(v.norm()) for k, v in drawn.items()}


def _moved(params: Tensors, direction: Tensors, by: float) -> Tensors:
    return {key: value + by * direction[key] for key, value in params.items()}


def _dot(one: Tensors, two: Tensors) -> float:
    return sum(float((one[key] * two[key]).sum()) for key in one)


@contextmanager
def no_random_numbers(name: str, model: Model | None = None) -> Iterator[None]:
    """Refuse random draws in the block, and name the part of a module that makes them.

    Raises:
        ConfigError: If a global generator of torch, NumPy or Python moved.
    """
    parts: list[nn.Module] = []
    before_each: list[list[Any]] = []

    def enter(*_: Any) -> None:
        before_each.append(_global_generators())

    def leave(part: nn.Module, *_: Any) -> None:
        if before_each.pop() != _global_generators():
            parts.append(part)

    before = _global_generators()
    with register_module_forward_pre_hook(enter), register_module_forward_hook(leave):
        yield
    if before != _global_generators():
        # The innermost part ends first.
        path = model.path_of(parts[0]) if parts and isinstance(model, ModuleModel) else ""
        where = f" in '{path}'" if path else ""
        raise ConfigError(
            f"{name} draws random numbers{where} while it runs, which the run's seed does not control: "
            "set the rate to 0, or draw them in the constructor"
        )


def _global_generators() -> list[Any]:
    _, words, *place = np.random.get_state(legacy=True)
    # Bytes and tuples compare by value.
    gpus = torch.cuda.get_rng_state_all() if torch.cuda._initialized else []
    return [
        *(state.numpy().tobytes() for state in gpus),
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
        np.asarray(words).tobytes(),
        place,
    ]


def in_dtype(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    """Cast the floating-point tensors."""
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}


def _differing(params: Tensors, tasks: int) -> Tensors:
    """Return different weights for each task, ``[T, ...]``; the first task's are `params`."""
    return {
        key: torch.stack([value * (1 + 0.1 * task) for task in range(tasks)])
        for key, value in params.items()
    }


def _differ(one: Tensor, two: Tensor) -> bool:
    if one.shape != two.shape:
        return True
    return bool((one - two).abs().max() > 1e-4 * two.abs().max().clamp(min=1e-3))
