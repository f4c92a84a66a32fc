"""A user's algorithm is tried on two tasks before a run."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fedmeta import options
from fedmeta.errors import ConfigError
from fedmeta.learning import Tensors
from fedmeta.learning.algorithm import Model
from fedmeta.learning.algorithm_trial import try_updates
from fedmeta.learning.algorithms import FOMAML, MAML
from fedmeta.learning.model_trial import try_model
from fedmeta.tasks import TaskBatch, TaskSpec
from tests.learning.cases import CASES, DESCENT, EMBEDDING, FEWER, make_learner, make_tasks, takes

CASE = CASES["image-mlp"]


class Broken(FOMAML):
    """FOMAML whose updates are changed on their way out."""

    def __init__(self, fault: str) -> None:
        made = make_learner("fomaml", CASE)
        super().__init__(made.options, made.model, made.spec)
        self.fault, self.calls = fault, 0

    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        updates, metrics = super().task_updates(state, tasks)
        first = next(iter(updates))
        self.calls += 1
        if self.fault == "a key is missing":
            del updates[first]
        if self.fault == "a key too many":
            updates["momentum"] = updates[first]
        if self.fault == "summed over tasks":
            updates[first] = updates[first].sum(0)
        if self.fault == "another dtype":
            updates[first] = updates[first].double()
        if self.fault == "NaN":
            updates[first] = updates[first] / 0
        if self.fault == "no loss_before":
            del metrics["loss_before"]
        if self.fault == "one loss for all":
            metrics["loss"] = metrics["loss"].mean()
        if self.fault == "mixes tasks":
            updates[first] = updates[first] + updates[first].mean(0)
        if self.fault == "remembers":
            updates[first] = updates[first] * self.calls
        if self.fault == "draws":
            updates[first] = updates[first] + torch.randn(updates[first].shape)
        if self.fault == "changes the state":
            state[first].add_(1)
        if self.fault == "raises":
            raise KeyError("beta")
        return updates, metrics


FAULTS = {
    "a key is missing": r"keys of the state \(see 'hidden0.weight'\)",
    "a key too many": r"keys of the state \(see 'momentum'\)",
    "summed over tasks": r"update of 'hidden0.weight' is \[144, 7\]",
    "another dtype": "torch.float64, but the state is",
    "NaN": "'hidden0.weight' holds NaN",
    "no loss_before": "metric 'loss_before' must be one number per task, but is missing",
    "one loss for all": r"metric 'loss' must be one number per task, but is \[\]",
    "mixes tasks": "depends on the other tasks",
    "remembers": "different results for the same tasks",
    "draws": "draws random numbers",
    "changes the state": "changes the state in place|cannot learn",
    "raises": r"cannot learn from these tasks \(KeyError: 'beta'\)",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_algorithm_that_would_go_wrong_is_refused_in_one_line(fault: str) -> None:
    tasks = make_tasks(CASE.spec).to(torch.float32)
    with pytest.raises(ConfigError, match=FAULTS[fault]) as refusal:
        try_updates(Broken(fault), tasks, torch.float32, "algorithm 'mine'")
    assert str(refusal.value).startswith("algorithm 'mine'")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("algorithm", [*DESCENT, *EMBEDDING])
@pytest.mark.parametrize("case", ["image-mlp", "conv4-stride", "lstm", "sinusoid-mlp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_built_in_parts_would_pass_the_trial(algorithm: str, case: str, dtype: torch.dtype) -> None:
    if not takes(algorithm, CASES[case]):
        pytest.skip(f"{algorithm} is not for such tasks")
    learner = make_learner(algorithm, CASES[case], **FEWER.get(algorithm, {}))
    tasks = make_tasks(CASES[case].spec).to(dtype)
    try_model(learner.model, tasks.support_x, dtype, learner.second_order, f"model '{case}'")
    try_updates(learner, tasks, dtype, f"algorithm '{algorithm}'")


class Stacked(Model):
    """A linear model on the task axis with a mistake."""

    Options = options.Options
    chunk_tasks, batch_norm, outputs = 4, False, 3

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def init(self, generator: torch.Generator) -> Tensors:
        return {"w": torch.randn(5, 3, generator=generator)}

    def forward(self, params: Tensors, x: Tensor, stat_rows: int | None = None) -> Tensor:
        if self.fault == "first weights for all":
            return x @ params["w"][:1]
        if self.fault == "in place":
            return x.mul_(2) @ params["w"]
        if self.fault == "mean over tasks":
            return (x - x.mean(0)) @ params["w"]
        if self.fault == "no example axis":
            return (x @ params["w"]).mean(1)
        return (x / 0) @ params["w"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("in place", "changes its inputs in place"),
        ("first weights for all", "mixes tasks"),
        ("mean over tasks", "mixes tasks"),
        ("no example axis", r"returns shape \[2, 3\]"),
        ("divides by zero", "NaN or infinity at its initial weights"),
    ],
)
def test_a_model_on_the_task_axis_that_would_go_wrong_is_refused(fault: str, message: str) -> None:
    x = make_tasks(TaskSpec("classification", (5,), 3)).to(torch.float32).support_x
    with pytest.raises(ConfigError, match=f"model 'mine'.*{message}"):
        try_model(Stacked(fault), x, torch.float32, True, "model 'mine'")


class Lossy(MAML):
    """MAML that loses precision in float32: it adds and takes away a large number."""

    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        updates, metrics = super().task_updates(state, tasks)
        return {key: (value + 1e6) - 1e6 for key, value in updates.items()}, metrics


def test_an_update_that_float32_cannot_hold_is_refused() -> None:
    made: Any = make_learner("maml", CASE)
    lossy = Lossy(made.options, made.model, made.spec)
    tasks = make_tasks(CASE.spec)
    with pytest.raises(ConfigError, match="differs from the one in float64"):
        try_updates(lossy, tasks.to(torch.float32), torch.float32, "algorithm 'mine'")
    try_updates(lossy, tasks, torch.float64, "algorithm 'mine'")
