"""Checks an algorithm on two tasks before a run."""

import math
from typing import Any

import torch

from fedmeta.errors import ConfigError
from fedmeta.learning.algorithm import Algorithm, Tensors, expand_state
from fedmeta.learning.device import CPU, place
from fedmeta.learning.local import LocalWork
from fedmeta.learning.model_trial import in_dtype, no_random_numbers
from fedmeta.tasks import TaskBatch, torch_generator
from fedmeta.tasks.measure import LOSS

ROUNDING = 0.05
"""Largest relative difference between an update in float32 and in float64."""


def try_updates(algorithm: Algorithm, tasks: TaskBatch, dtype: torch.dtype, name: str) -> None:
    """Require that updates fit the state and depend only on state and task.

    Args:
        algorithm: The algorithm, not compiled.
        tasks: Two tasks or more.
        dtype: The run's dtype.
        name: Its name in messages.

    Raises:
        ConfigError: If they do not.
    """
    state = in_dtype(algorithm.init(torch_generator(0, "trial")), dtype)
    rows, kept = expand_state(state, len(tasks)), {key: value.clone() for key, value in state.items()}
    try:
        with no_random_numbers(name):
            updates, metrics = algorithm.task_updates(rows, tasks)
        again, _ = algorithm.task_updates(rows, tasks)
        alone, _ = algorithm.task_updates(expand_state(state, 1), tasks[:1])
        _require_predictions(algorithm, rows, tasks, name)
    except ConfigError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"{name} cannot learn from these tasks ({reason})") from None
    _require_fitting(updates, rows, name)
    _require_metrics(algorithm, metrics, len(tasks), name)
    if any(not torch.equal(state[key], value) for key, value in kept.items()):
        raise ConfigError(f"{name}: task_updates changes the state in place; return the change instead")
    if any(not torch.equal(again[key], value) for key, value in updates.items()):
        raise ConfigError(f"{name}: task_updates returns different results for the same tasks")
    if _apart({key: value[:1] for key, value in updates.items()}, alone) > 1e-2:
        raise ConfigError(f"{name}: a task's update depends on the other tasks of its batch")
    _require_local_update(algorithm, state, tasks[:2], name)
    _require_precise(algorithm, tasks[:1], alone, name)


def try_on_device(
    algorithm: Algorithm, tasks: TaskBatch, dtype: torch.dtype, device: torch.device, name: str
) -> None:
    """Require that an algorithm and its model run on a device, with the same results as on the CPU.

    Args:
        algorithm: The algorithm, not compiled.
        tasks: Tasks on the CPU.
        dtype: The run's dtype.
        device: The run's device.
        name: Its name in messages.

    Raises:
        ConfigError: If they do not.
    """
    state = expand_state(in_dtype(algorithm.init(torch_generator(0, "trial")), dtype), len(tasks))
    here, _ = algorithm.task_updates(state, tasks)
    try:
        there, _ = algorithm.task_updates(place(state, device), tasks.to(device=device))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        cure = "or choose device = 'cpu'"
        if "two devices" in reason or "same device" in reason:
            cure = "hold tensors as buffers, and make new ones on the device of the input, " + cure
        raise ConfigError(f"{name} cannot run on {device.type} ({reason}): {cure}") from None
    if any(value.device.type != device.type for value in there.values()):
        raise ConfigError(f"{name}: updates must be on the device of the state, {device.type}")
    if (apart := _apart(place(there, CPU), here)) > ROUNDING:
        raise ConfigError(
            f"{name}: updates on {device.type} differ from the CPU's by {apart:.2g} of their size"
        )


def _require_local_update(algorithm: Algorithm, state: Tensors, tasks: TaskBatch, name: str) -> None:
    """Require that two clients can be computed in one stack, and that their memory keeps its format."""
    dtype = next(iter(state.values())).dtype
    own = [in_dtype(algorithm.init_client(client), dtype) for client in (0, 1)]
    if _forms(own[0]) != _forms(own[1]):
        raise ConfigError(f"{name}: init_client must return the same keys, shapes and dtypes for all")
    memory = {key: torch.stack([one[key] for one in own]) for key in own[0]}
    kept = {key: value.clone() for key, value in memory.items()}
    work = LocalWork([0, 1], tasks, 1, 0.01, algorithm.task_updates)
    try:
        update, after, _ = algorithm.local_update(expand_state(state, 2), memory, work)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"{name}: local_update fails for two clients ({reason})") from None
    if _forms(update) != _forms(expand_state(state, 2)):
        raise ConfigError(f"{name}: local_update must return an update of each tensor of the state")
    if _forms(after) != _forms(memory):
        raise ConfigError(f"{name}: local_update must return memory in the format of init_client")
    if any(not torch.equal(memory[key], value) for key, value in kept.items()):
        raise ConfigError(
            f"{name}: local_update changes the clients' memory in place; return the new memory instead"
        )


def _forms(tensors: Tensors) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {key: (value.shape, value.dtype) for key, value in tensors.items()}


def _require_precise(algorithm: Algorithm, tasks: TaskBatch, updates: Tensors, name: str) -> None:
    dtype = next(iter(updates.values())).dtype
    if dtype != torch.float32:
        return
    state = expand_state(in_dtype(algorithm.init(torch_generator(0, "trial")), torch.float64), 1)
    try:
        wide, _ = algorithm.task_updates(state, tasks.to(torch.float64))
    except Exception:
        # It only runs in float32: there is nothing to compare with.
        return
    if (error := _apart(updates, wide)) > ROUNDING:
        raise ConfigError(
            f"{name}: an update in float32 differs from the one in float64 by {error:.2g} of its size; "
            "set dtype = 'float64', or find the operator that loses precision"
        )


def _require_fitting(updates: Any, rows: Tensors, name: str) -> None:
    if not isinstance(updates, dict) or updates.keys() != rows.keys():
        odd = sorted(set(rows) ^ set(updates))[0] if isinstance(updates, dict) else "not a dict"
        raise ConfigError(f"{name}: task_updates must return the keys of the state (see '{odd}')")
    for key, value in updates.items():
        if value.shape != rows[key].shape or value.dtype != rows[key].dtype:
            raise ConfigError(
                f"{name}: the update of '{key}' is {list(value.shape)} in {value.dtype}, but the state "
                f"is {list(rows[key].shape)} in {rows[key].dtype}"
            )
        if not bool(value.isfinite().all()):
            raise ConfigError(
                f"{name}: the first update of '{key}' holds NaN or infinity; lower learner.inner_lr"
            )


def _require_metrics(algorithm: Algorithm, metrics: Tensors, tasks: int, name: str) -> None:
    for metric in algorithm.objective.training_measures:
        shape = list(metrics[metric].shape) if metric in metrics else "missing"
        if shape != [tasks]:
            raise ConfigError(f"{name}: metric '{metric}' must be one number per task, but is {shape}")


def _require_predictions(algorithm: Algorithm, rows: Tensors, tasks: TaskBatch, name: str) -> None:
    objective = algorithm.objective
    adapted = algorithm.adapt(rows, tasks.support, 1)
    with torch.no_grad():
        prediction = algorithm.predict(rows, adapted, tasks.query)
        try:
            found = {LOSS: objective.loss(prediction, tasks.query)}
            found |= objective.measure(prediction, tasks.query)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ConfigError(
                f"{name}: predictions of shape {list(prediction.shape)} do not fit the targets "
                f"({reason})"
            ) from None
    for measure in objective.all_measures:
        shape = list(found[measure].shape) if measure in found else "missing"
        if shape != [len(tasks)]:
            raise ConfigError(
                f"objective '{objective.spec.objective}': '{measure}' must be one number per task, "
                f"but is {shape}"
            )


def _apart(one: Tensors, two: Tensors) -> float:
    """Return the norm of the difference divided by the norm of `two`, over all tensors."""
    keys = [key for key in two if two[key].is_floating_point()]
    difference = math.fsum(float((one[key].double() - two[key].double()).square().sum()) for key in keys)
    total = math.fsum(float(two[key].double().square().sum()) for key in keys)
    return math.sqrt(difference / total) if total else math.sqrt(difference)
