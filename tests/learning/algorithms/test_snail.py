import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fedmeta.errors import ConfigError
from fedmeta.learning import Tensors
from fedmeta.tasks import TaskSpec
from tests.learning.cases import (
    CASES,
    Case,
    assert_gradient,
    loss_after,
    make_learner,
    make_state,
    make_tasks,
)

LABELS = Case(
    "torch.nn:Linear", {"in_features": 5, "out_features": 4}, TaskSpec("classification", (5,), 3)
)
NUMBERS = Case(LABELS.model, LABELS.network, TaskSpec("regression", (5,), 2))
SMALL = {"keys": [4, 6], "filters": 3, "support": 6}


def convolution(own: Tensors, name: str, x: Tensor, dilation: int) -> Tensor:
    """A causal convolution of one sequence ``[L, C]``, by `conv1d` on a padded copy."""
    earlier, here = own[f"{name}.weight"].chunk(2)
    kernel = torch.stack([earlier.T, here.T], -1)
    padded = F.pad(x.T.unsqueeze(0), (dilation, 0))
    return F.conv1d(padded, kernel, own[f"{name}.bias"], dilation=dilation)[0].T


def attention(own: Tensors, name: str, x: Tensor) -> Tensor:
    """Causally masked attention of one sequence."""
    query, key, value = (
        x @ own[f"{name}.{part}.weight"] + own[f"{name}.{part}.bias"]
        for part in ("query", "key", "value")
    )
    scores = query @ key.T / math.sqrt(key.shape[1])
    later = torch.ones_like(scores).triu(1).bool()
    return scores.masked_fill(later, -math.inf).softmax(-1) @ value


def outputs(own: Tensors, sequence: Tensor) -> Tensor:
    """The paper's figures 1 and 2 for one sequence, whose last example is the query."""
    x = torch.cat([sequence, attention(own, "snail.attention0", sequence)], -1)
    for layer in range(math.ceil(math.log2(SMALL["support"] + 1))):
        name = f"snail.convolution1.{layer}"
        made = convolution(own, f"{name}.filter", x, 2 ** (layer + 1)).tanh()
        x = torch.cat([x, made * convolution(own, f"{name}.gate", x, 2 ** (layer + 1)).sigmoid()], -1)
    x = torch.cat([x, attention(own, "snail.attention1", x)], -1)
    return x[-1] @ own["snail.last.weight"] + own["snail.last.bias"]


@pytest.mark.parametrize("examples", [2, 6])
@pytest.mark.parametrize("case", [LABELS, NUMBERS])
def test_outputs_are_those_of_the_paper_sequence_by_sequence(case: Case, examples: int) -> None:
    learner = make_learner("snail", case, **SMALL)
    tasks, state = make_tasks(case.spec, support=examples, query=3), make_state(learner)
    said = learner.predict(state, learner.adapt(state, tasks.support, 0), tasks.query)
    for task in range(2):
        own = {key: value[task] for key, value in state.items()}
        support, query = (
            half[task] @ own["weight"].T + own["bias"] for half in (tasks.support_x, tasks.query_x)
        )
        y = tasks.support_y[task]
        targets = F.one_hot(y, 3).double() if case is LABELS else y
        unknown = torch.zeros(1, case.spec.outputs).double()
        before = torch.cat([support, targets], -1)
        for row, one in enumerate(query):
            last = torch.cat([one.unsqueeze(0), unknown], -1)
            expected = outputs(own, torch.cat([before, last]))
            torch.testing.assert_close(said[task, row], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("transductive", [True, False])
def test_update_is_the_derivative_of_the_query_loss(transductive: bool) -> None:
    learner = make_learner("snail", CASES["conv4-stride"], transductive, **SMALL)
    tasks, state = make_tasks(learner.spec), make_state(learner)
    updates, _ = learner.task_updates(state, tasks)
    assert_gradient(lambda at: loss_after(learner, at, tasks, 0), state, updates)


def test_text_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'snail' needs .* one label per example or a regression"):
        make_learner("snail", CASES["lstm"])
