"""The budget is equal: tasks and gradients are counted where the algorithms take them."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from fedmeta.comparison.arms import choose
from fedmeta.comparison.plans import budget, inner_steps_a_task, plan_arms
from fedmeta.experiment import Config, RunFolder, run
from fedmeta.experiment.planning import resolve
from fedmeta.learning.algorithms import MAML, FedAvg
from fedmeta.learning.inner import Gradient, WeightAdaptation
from fedmeta.tasks import Examples, TaskBatch
from tests.comparison.helpers import DIGITS, TINY


class Counts:
    """Counts the tasks and the inner gradients of all training that happens while it watches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tasks = self.inner = 0
        self.training = False
        for kind in (MAML, FedAvg):
            self._watch(monkeypatch, kind)
        gradient = WeightAdaptation.inner_gradient

        def counted(own: Any, params: Any, examples: Examples, *rest: Any) -> Gradient:
            self.inner += len(examples["x"]) if self.training else 0
            return gradient(own, params, examples, *rest)

        monkeypatch.setattr(WeightAdaptation, "inner_gradient", counted)

    def _watch(self, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
        updates = kind.task_updates

        def counted(own: Any, state: Any, tasks: TaskBatch) -> Any:
            self.tasks += len(tasks)
            self.training = True
            try:
                return updates(own, state, tasks)
            finally:
                self.training = False

        monkeypatch.setattr(kind, "task_updates", counted)


@pytest.mark.parametrize("base", [TINY, DIGITS], ids=["sinusoid", "digits"])
def test_every_arm_uses_the_same_tasks_and_the_inner_steps_of_its_algorithm(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Autograd takes the inner gradients one by one, where they can be counted.
    config = Config(**base | {"rounds": 5, "kernels": "eager"})
    used = Counter[str]()
    for plan in plan_arms(config, choose(resolve(config), None)[0], [0]):
        with monkeypatch.context() as patches:
            counts = Counts(patches)
            run(plan.configs[0], out=tmp_path / plan.arm.name)
        arm, name = plan.configs[0], plan.arm.name
        used[name] = counts.tasks
        adapts = arm.algorithm == "maml"
        assert counts.inner == (counts.tasks * inner_steps_a_task(arm) if adapts else 0), name
        logged = sum(row["tasks"] for row in RunFolder.open(tmp_path / name).metrics())
        assert logged == counts.tasks == budget(arm), name
    untrained = [used.pop(name) for name in ("untrained", "prototypes") if name in used]
    assert set(untrained) == {0}
    assert set(used.values()) == {5 * 4 * 2}
    assert len(used) == 7


def test_with_one_client_that_holds_all_data_federated_equals_centralized_bit_for_bit(
    tmp_path: Path,
) -> None:
    alone = Config(**DIGITS | {"clients": 3, "test_clients": 2, "cohort": 1, "tasks_per_client": 8})
    arms, _ = choose(resolve(alone), ["centralized", "federated"])
    folders = []
    for plan in plan_arms(alone, arms, [3]):
        run(plan.configs[0], out=tmp_path / plan.arm.name)
        folders.append(RunFolder.open(tmp_path / plan.arm.name))
    one, other = folders
    (left, _), (right, _) = (folder.checkpoints.load(10) for folder in folders)
    for mine, theirs in ((left.state, right.state), (left.optimizer, right.optimizer)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert one.info["final"] == other.info["final"]
    assert one.test() == other.test()
    assert [row["test"] for row in one.metrics()] == [row["test"] for row in other.metrics()]
