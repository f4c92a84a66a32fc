"""Oracles: finite differences, and the paper's optimizer for a single task by `torch.nn.LSTM`."""

import pytest
import torch
from torch import Tensor, nn

from fedmeta.learning import Algorithm, Tensors
from fedmeta.learning.layers import preprocessed
from fedmeta.tasks import TaskBatch
from tests.learning.algorithms.test_maml import loss_of
from tests.learning.cases import (
    CASES,
    assert_gradient,
    make_learner,
    make_state,
    make_tasks,
    relative_error,
)
from tests.learning.reference import from_module, to_module

HIDDEN, STEPS, SCALE = 3, 3, 0.2


def learner_of(name: str) -> Algorithm:
    options = {"hidden": HIDDEN, "inner_steps": STEPS, "scale": SCALE}
    return make_learner("coordinatewise_lstm", CASES[name], **options)


@pytest.mark.parametrize("name", ["sinusoid-mlp", "conv4-stride", "lstm"])
def test_weights_and_updates_are_those_of_the_optimizer_for_one_task(name: str) -> None:
    learner = learner_of(name)
    tasks, state = make_tasks(CASES[name].spec), make_state(learner)
    updates, metrics = learner.task_updates(state, tasks)
    adapted = learner.adapt(state, tasks.support, STEPS)
    start = learner.adapt(state, tasks.support, 0)
    for task in range(2):
        own = {key: value[task].clone().requires_grad_() for key, value in state.items()}
        first = {key: value[task] for key, value in start.items() if not key.startswith("@")}
        weights, losses = written_out(name, own, first, tasks, task)
        expected = torch.autograd.grad(torch.stack(losses).mean(), list(own.values()))
        found = {key: value[task] for key, value in updates.items()}
        assert relative_error(found, dict(zip(own, expected, strict=True))) < 1e-9
        assert relative_error({key: adapted[key][task] for key in weights}, weights) < 1e-9
        assert float(metrics["loss"][task]) == pytest.approx(losses[-1].item())


def test_with_second_derivatives_the_update_is_the_derivative_of_the_mean_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learner = learner_of("sinusoid-mlp")
    tasks, state = make_tasks(learner.spec), make_state(learner)
    constant, _ = learner.task_updates(state, tasks)
    monkeypatch.setattr(type(learner), "second_order", True)
    updates, _ = learner.task_updates(state, tasks)

    def mean_loss(at: Tensors) -> float:
        found = [learner.adapt(at, tasks.support, step + 1) for step in range(STEPS)]
        losses = [
            learner.objective.loss(learner.predict(at, w, tasks.query), tasks.query) for w in found
        ]
        return float(torch.stack(losses).mean(0).sum())

    assert_gradient(mean_loss, state, updates)
    assert relative_error(constant, updates) > 1e-4


def test_clients_send_the_rule_alone_and_every_task_starts_from_the_same_weights() -> None:
    learner = learner_of("sinusoid-mlp")
    states = [learner.init(torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    assert all(key.startswith("@rule.") for key in states[0])
    assert not torch.equal(states[0]["@rule.lstm0.weight"], states[1]["@rule.lstm0.weight"])
    one, other = (learner.weights(state) for state in states)  # type: ignore[attr-defined]
    drawn = learner.model.init(torch.Generator().manual_seed(0))
    for key, value in drawn.items():
        assert torch.equal(one[key], value)
        assert torch.equal(other[key], value)


def written_out(
    name: str, own: Tensors, start: Tensors, tasks: TaskBatch, task: int
) -> tuple[Tensors, list[Tensor]]:
    """Take the steps of equation 2 for one task; return its weights and its query loss after each."""
    rule = {key.removeprefix("@rule."): value for key, value in own.items()}
    spec, shapes = CASES[name].spec, {key: value.shape for key, value in start.items()}
    lstm = nn.LSTM(2, HIDDEN, num_layers=2, dtype=torch.float64)
    loaded = {}
    for layer in (0, 1):
        loaded[f"weight_ih_l{layer}"] = rule[f"lstm{layer}.weight"].T
        loaded[f"weight_hh_l{layer}"] = rule[f"lstm{layer}.recurrent"].T
        loaded[f"bias_ih_l{layer}"] = rule[f"lstm{layer}.bias"]
        loaded[f"bias_hh_l{layer}"] = torch.zeros(4 * HIDDEN, dtype=torch.float64)
    flat = torch.cat([value.flatten() for value in start.values()])
    memory = (torch.zeros(2, len(flat), HIDDEN, dtype=torch.float64),) * 2
    learner, losses = learner_of(name), []

    def parts(row: Tensor) -> Tensors:
        pieces = row.split([shape.numel() for shape in shapes.values()])
        return {k: one.view(shape) for (k, shape), one in zip(shapes.items(), pieces, strict=True)}

    for _ in range(STEPS):
        weights = {key: value.detach() for key, value in parts(flat).items()}
        module = to_module(name, weights)
        loss = loss_of(spec, module, tasks.support_x[task], tasks.support_y[task])
        slopes = torch.autograd.grad(loss, list(module.parameters()))
        named = from_module(name, list(slopes), weights)
        gradient = torch.cat([named[key].flatten() for key in shapes])
        inputs = preprocessed(gradient, 10.0)[None]
        output, memory = torch.func.functional_call(lstm, loaded, (inputs, memory))
        flat = flat + SCALE * (output[0] @ rule["step.weight"] + rule["step.bias"])[:, 0]
        query = tasks[task : task + 1].query
        prediction = learner.model.forward({k: v[None] for k, v in parts(flat).items()}, query["x"])
        losses.append(learner.objective.loss(prediction, query)[0])
    return {key: value.detach() for key, value in parts(flat).items()}, losses
