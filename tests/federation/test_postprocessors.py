"""Postprocessors: clipping by hand, stages in order, and state on client and server."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmeta.errors import ConfigError
from fedmeta.experiment import Config
from fedmeta.experiment.planning import check, resolve
from fedmeta.federation import Learner, Plan, ServerOptions, Workload
from fedmeta.federation.client_states import ClientStates
from fedmeta.federation.optimizer import ServerOptimizer
from fedmeta.federation.postprocessors import Postprocessing, Postprocessor, read_postprocessors
from fedmeta.learning import Tensors
from fedmeta.training import simulate
from tests.experiment.helpers import TINY
from tests.federation.helpers import PLAN, SINUSOID, NoOptions, algorithm, assert_same

HERE = "tests.federation.test_postprocessors"
STATE = {"a": torch.zeros(2), "b": torch.zeros(1, 1), "count": torch.zeros((), dtype=torch.int64)}


class Counting(Postprocessor):
    """Replaces an update by the number of its round."""

    Options = NoOptions

    def init(self, template: Tensors) -> Tensors:
        return {"rounds": torch.zeros(())}

    def apply(self, updates: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        rounds = state["rounds"] + 1
        rows = {k: rounds.view(-1, *[1] * (v.dim() - 1)).expand_as(v) for k, v in updates.items()}
        return rows, {"rounds": rounds}


class Doubling(Postprocessor):
    Options = NoOptions

    def apply(self, updates: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        return {key: 2 * value for key, value in updates.items()}, state


def clip(stage: str, norm: float) -> dict[str, Any]:
    return {"kind": "clip", "stage": stage, "norm": norm}


def own(name: str, stage: str) -> dict[str, Any]:
    return {"kind": f"{HERE}:{name}", "stage": stage}


def test_each_row_is_clipped_by_its_own_norm_over_all_tensors() -> None:
    """|(3, 4, 12)| = 13 is cut to 6.5 by a half; |(0, 3, 4)| = 5 is short enough and keeps its bits."""
    updates = {
        "a": torch.tensor([[3.0, 4.0], [0.0, 3.0], [0.0, 0.0]]),
        "b": torch.tensor([[[12.0]], [[4.0]], [[0.0]]]),
        "count": torch.tensor([1, 2, 3]),
    }
    clipped, _ = Postprocessing([clip("client", 6.5)], "client", STATE)(updates, {})
    expected = {"a": [[1.5, 2.0], [0.0, 3.0], [0.0, 0.0]], "b": [[[6.0]], [[4.0]], [[0.0]]]}
    for key, values in expected.items():
        np.testing.assert_array_equal(clipped[key], values)
    assert clipped["count"] is updates["count"]


@pytest.mark.parametrize(
    ("tables", "length"),
    [
        ([clip("client", 1.0), own("Doubling", "client")], 2.0),
        ([own("Doubling", "client"), clip("client", 1.0)], 1.0),
        ([own("Doubling", "server"), clip("client", 1.0), own("Doubling", "task")], 1.0),
    ],
)
def test_those_of_a_stage_work_in_the_order_of_the_config(tables: list[Any], length: float) -> None:
    updates = {"a": torch.tensor([[30.0, 40.0]]), "b": torch.zeros(1, 1, 1)}
    template = {key: STATE[key] for key in updates}
    changed, _ = Postprocessing(tables, "client", template)(updates, {})
    assert float(changed["a"].norm()) == pytest.approx(length)


def norms(workload: Workload, plan: Plan = PLAN, **options: Any) -> list[float]:
    found: list[float] = []
    simulate(
        workload, plan, observer=lambda r, _: found.extend(c.norm or 0.0 for c in r.clients), **options
    )
    return found


def test_at_the_client_it_bounds_what_a_client_sends() -> None:
    assert min(norms(SINUSOID)) > 0.5
    bounded = norms(replace(SINUSOID, postprocessors=(clip("client", 0.5),)))
    np.testing.assert_allclose(bounded, 0.5, rtol=1e-6)


def test_at_the_task_it_bounds_what_a_task_adds_to_it() -> None:
    workload = replace(SINUSOID, tasks_per_client=3, local_steps=2)
    bounded = norms(replace(workload, postprocessors=(clip("task", 1e-3),)))
    # Two sums of a mean of three, each no longer than a thousandth.
    assert 0 < max(bounded) <= 2e-3
    assert min(norms(workload)) > 0.1


def test_at_the_server_it_is_the_clipping_of_the_optimizer() -> None:
    plain = replace(PLAN, server=ServerOptions(optimizer="SGD", lr=0.1))
    clipped = replace(plain, server=ServerOptions(optimizer="SGD", lr=0.1, clip_norm=0.2))
    post = replace(SINUSOID, postprocessors=(clip("server", 0.2),))
    ours = simulate(post, plain, observer=lambda *_: None).state
    theirs = simulate(SINUSOID, clipped, observer=lambda *_: None).state
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stage", ["client", "server"])
def test_memory_is_the_same_after_a_restart(stage: str, tmp_path: Path) -> None:
    workload = replace(SINUSOID, postprocessors=(own("Counting", stage),))
    plan = replace(PLAN, rounds=6)
    kept: list[Any] = []
    states = ClientStates(tmp_path / "clients.sqlite")
    end = simulate(workload, plan, observer=lambda _, s: kept.append(s), states=states)
    again = simulate(workload, plan, observer=lambda *_: None, start=kept[4], states=states)
    assert_same(again.state, end.state)
    assert_same(again.optimizer, end.optimizer)
    if stage == "server":
        assert end.optimizer["@postprocessor.0.rounds"].tolist() == [6.0]


def test_a_preview_of_a_step_does_not_take_it() -> None:
    learner = Learner.build(replace(SINUSOID, postprocessors=(own("Counting", "server"),)))
    server = ServerOptimizer(
        ServerOptions(optimizer="SGD", lr=1.0), learner.template, 9, (), learner.postprocessing("server")
    )
    zeros = {key: torch.zeros_like(value) for key, value in learner.template.items()}
    first = server.preview(1, zeros)
    assert_same(server.preview(1, zeros), first)
    server.step(1, zeros)
    assert_same(server.state, first)


def test_postprocessors_leave_keys_that_are_added_alone() -> None:
    workload = algorithm("scaffold", local_steps=2, local_lr=0.05)
    learner = Learner.build(replace(workload, postprocessors=(own("Doubling", "client"),)))
    plain = Learner.build(workload)
    state = learner.init_state()
    ours, theirs = (one.train(state, 1, [0, 1]).updates for one in (learner, plain))
    for key, value in ours.items():
        factor = 1 if key.startswith("@control.") else 2
        assert torch.equal(value, factor * theirs[key]), key


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ({"kind": "clap", "norm": 1.0}, "unknown postprocessor 'clap': did you mean 'clip'?"),
        ({"kind": "clip"}, "missing key 'postprocessors.0.norm'"),
        ({"kind": "clip", "norm": -1.0}, "postprocessors.0.norm: "),
        ({"kind": "clip", "norm": 1.0, "stage": "round"}, "postprocessors.0.stage: "),
        ({"kind": "clip", "norm": 1.0, "length": 2}, "unknown key 'postprocessors.0.length'"),
        ({"kind": f"{HERE}:NoOptions"}, "is not a Postprocessor"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(table: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_postprocessors([table])
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


class Failing(Postprocessor):
    Options = NoOptions

    def apply(self, updates: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        raise RuntimeError("no such thing")


class Forgetful(Counting):
    def apply(self, updates: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        return updates, {}


class Summing(Postprocessor):
    Options = NoOptions

    def apply(self, updates: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        return {key: value.sum(0) for key, value in updates.items()}, state


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Failing", "cannot be applied (RuntimeError: no such thing)"),
        ("Forgetful", "must return updates and state"),
        ("Summing", "must return updates and state with the names, shapes"),
    ],
)
@pytest.mark.parametrize("stage", ["client", "server"])
def test_one_that_would_end_a_run_is_refused_before(name: str, stage: str, line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)):
        check(resolve(Config(**TINY, postprocessors=[own(name, stage)])))


def test_a_task_cannot_be_remembered() -> None:
    with pytest.raises(
        ConfigError, match="keeps state between rounds, but a task has no next round: set stage = "
    ):
        Postprocessing([own("Counting", "task")], "task", STATE)
