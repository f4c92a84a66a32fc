"""Meta Networks, compared with a loop over one task's examples that autograd differentiates."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmeta.learning import Tensors, expand_state
from fedmeta.tasks import TaskBatch
from tests.learning.cases import CASES, make_learner, make_state, make_tasks

SMALL: dict[str, Any] = {"hidden": 5, "maker": 4}


def augmented(x: Tensor, slow: Tensor, fast: Tensor | None, slope: float = 0.0) -> Tensor:
    """A layer with slow and fast weights, the last row of which is the bias."""
    out = F.relu(x @ slow[:-1] + slow[-1])
    return out if fast is None else out + F.leaky_relu(x @ fast[:-1] + fast[-1], slope)


def number(gradient: float) -> list[float]:
    """Andrychowicz et al. 2016, appendix A, for one number."""
    if abs(gradient) >= math.exp(-7):
        return [math.log(abs(gradient)) / 7, math.copysign(1.0, gradient)]
    return [-1.0, math.exp(7) * gradient]


def numbers(gradient: Tensor) -> Tensor:
    return torch.tensor([number(g) for g in gradient.flatten().tolist()], dtype=torch.float64)


def made(own: Tensors, gradient: Tensor) -> Tensor:
    """m: the same three layers for each number of a gradient."""
    values = numbers(gradient)
    for layer in range(3):
        values = values @ own[f"metanet.fast{layer}.weight"] + own[f"metanet.fast{layer}.bias"]
        values = values if layer == 2 else F.relu(values)
    return values.view(gradient.shape)


def dynamic(own: Tensors, gradients: list[Tensor]) -> Tensor:
    """d: an LSTM over the gradients, the same for each number."""
    cell = nn.LSTMCell(2, len(own["metanet.dynamic.recurrent"])).double()
    weights = {
        "weight_ih": own["metanet.dynamic.weight"].T,
        "weight_hh": own["metanet.dynamic.recurrent"].T,
        "bias_ih": own["metanet.dynamic.bias"],
        "bias_hh": torch.zeros_like(own["metanet.dynamic.bias"]),
    }
    state = None
    for gradient in gradients:
        state = torch.func.functional_call(cell, weights, (numbers(gradient), state))
    assert state is not None
    said = state[0] @ own["metanet.dynamic.out.weight"] + own["metanet.dynamic.out.bias"]
    return said.view(gradients[0].shape)


def loss_by_algorithm_1(own: Tensors, z: Tensor, y: Tensor, asked: Tensor, truth: Tensor) -> Tensor:
    """Munkhdalai, Yu 2017, Algorithm 1, on the embeddings of one task's support and query."""

    def grads(first: str, second: str, row: int) -> tuple[Tensor, ...]:
        weights = own[first].detach().requires_grad_(), own[second].detach().requires_grad_()
        hidden = augmented(z[row].detach(), weights[0], None)
        logits = hidden @ weights[1][:-1] + weights[1][-1]
        return torch.autograd.grad(F.cross_entropy(logits, y[row]), weights)

    rows = range(len(z))
    star = dynamic(own, [grads("metanet.index", "metanet.guess", row)[0] for row in rows])
    memory, index = [], []
    for row in rows:
        by_hidden, by_output = grads("metanet.hidden", "metanet.output", row)
        memory.append((made(own, by_hidden), made(own, by_output)))
        index.append(augmented(z[row], own["metanet.index"], star, slope=0.1))
    losses = []
    for x, label in zip(asked, truth, strict=True):
        found = augmented(x, own["metanet.index"], star, slope=0.1)
        weights = torch.stack([F.cosine_similarity(found, key, dim=0) for key in index]).softmax(0)
        first, second = (sum(weights[row] * memory[row][layer] for row in rows) for layer in (0, 1))
        assert isinstance(first, Tensor)
        assert isinstance(second, Tensor)
        hidden = augmented(x, own["metanet.hidden"], first)
        slow = hidden @ own["metanet.output"][:-1] + own["metanet.output"][-1]
        losses.append(F.cross_entropy(slow + hidden @ second[:-1] + second[-1], label))
    return torch.stack(losses).mean()


def embedded(task: int, state: Tensors, tasks: TaskBatch) -> tuple[Tensor, Tensor]:
    """What the case's perceptron without a head makes of support and query."""
    weight, bias = state["hidden0.weight"], state["hidden0.bias"]
    support, query = (
        torch.tanh(x[task].flatten(1) @ weight + bias) for x in (tasks.support_x, tasks.query_x)
    )
    return support, query


def test_update_is_that_of_the_papers_algorithm_1() -> None:
    learner = make_learner("metanet", CASES["image-mlp"], **SMALL)
    tasks, state = make_tasks(learner.spec), make_state(learner)
    updates, metrics = learner.task_updates(state, tasks)
    for task in range(2):
        own = {key: value[task].detach().requires_grad_() for key, value in state.items()}
        support, query = embedded(task, own, tasks)
        loss = loss_by_algorithm_1(own, support, tasks.support_y[task], query, tasks.query_y[task])
        torch.testing.assert_close(metrics["loss"][task], loss.detach())
        expected = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
        for key, value in zip(own, expected, strict=True):
            wanted = torch.zeros_like(own[key]) if value is None else value
            torch.testing.assert_close(updates[key][task], wanted, rtol=1e-7, atol=1e-11, msg=key)


def test_every_network_but_the_guess_gets_a_gradient_from_any_initial_state() -> None:
    learner = make_learner("metanet", CASES["image-mlp"], **SMALL)
    tasks = make_tasks(learner.spec)
    for seed in range(10):
        drawn = learner.init(torch.Generator().manual_seed(seed))
        state = {key: value.double() for key, value in expand_state(drawn, 2).items()}
        updates, _ = learner.task_updates(state, tasks)
        still = {key for key, value in updates.items() if not bool(value.any())}
        assert still == {"metanet.guess"}, seed
