from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmeta.errors import ConfigError
from fedmeta.learning import Tensors
from fedmeta.learning.algorithms.matching import BACKWARD, FORWARD, READER
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

LINEAR = Case(
    "torch.nn:Linear", {"in_features": 5, "out_features": 4}, TaskSpec("classification", (5,), 3)
)
FULL = {"full_context": "lstm", "reads": 3}


def probabilities(
    state: Tensors, support: Tensor, labels: Tensor, query: Tensor, options: dict[str, Any]
) -> Tensor:
    """One task's equation 1 and appendix A, line by line, with `nn.LSTM`."""
    size = support.shape[1]
    examples = list(support)
    if options:
        both = nn.LSTM(size, size, bidirectional=True).double()
        fill(both, "_l0", state, FORWARD)
        fill(both, "_l0_reverse", state, BACKWARD)
        outputs, _ = both(support)
        examples = [g + out[:size] + out[size:] for g, out in zip(support, outputs, strict=True)]
    rows = []
    for f in query:
        embedded = f
        if options:
            h, c = torch.zeros_like(f), torch.zeros_like(f)
            for _ in range(options["reads"]):
                a = torch.stack([h @ g for g in examples]).softmax(0)
                r = sum(w * g for w, g in zip(a, examples, strict=True))
                # nn.LSTMCell wants a state of its output's size; [h, r] is larger.
                gates = (
                    f @ state[f"{READER}.weight"]
                    + torch.cat([h, r]) @ state[f"{READER}.recurrent"]
                    + state[f"{READER}.bias"]
                )
                i, forget, g, o = gates.chunk(4)
                c = forget.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh() + f
            embedded = h
        a = torch.stack([F.cosine_similarity(embedded, g, dim=0) for g in examples]).softmax(0)
        rows.append(torch.stack([a[labels == way].sum() for way in range(int(labels.max()) + 1)]))
    return torch.stack(rows)


def fill(lstm: nn.LSTM, ending: str, state: Tensors, name: str) -> None:
    with torch.no_grad():
        getattr(lstm, f"weight_ih{ending}").copy_(state[f"{name}.weight"].T)
        getattr(lstm, f"weight_hh{ending}").copy_(state[f"{name}.recurrent"].T)
        getattr(lstm, f"bias_ih{ending}").copy_(state[f"{name}.bias"])
        getattr(lstm, f"bias_hh{ending}").zero_()


@pytest.mark.parametrize("options", [{}, FULL])
def test_probabilities_are_those_of_the_paper_for_one_task_after_the_other(
    options: dict[str, Any],
) -> None:
    learner = make_learner("matching", LINEAR, **options)
    tasks, state = make_tasks(LINEAR.spec), make_state(learner)
    adapted = learner.adapt(state, tasks.support, 0)
    said = learner.predict(state, adapted, tasks.query)
    for task in range(2):
        own = {key: value[task] for key, value in state.items()}
        support, query = (
            half[task] @ own["weight"].T + own["bias"] for half in (tasks.support_x, tasks.query_x)
        )
        expected = probabilities(own, support, tasks.support_y[task], query, options)
        torch.testing.assert_close(said[task].exp(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("transductive", [True, False])
@pytest.mark.parametrize("options", [{}, FULL])
def test_update_is_the_derivative_of_the_query_loss(options: dict[str, Any], transductive: bool) -> None:
    learner = make_learner("matching", CASES["conv4-max"], transductive, **options)
    tasks, state = make_tasks(learner.spec), make_state(learner)
    updates, _ = learner.task_updates(state, tasks)
    assert_gradient(lambda at: loss_after(learner, at, tasks, 0), state, updates)


def test_a_larger_scale_is_a_sharper_attention() -> None:
    """From (1, 0), the cosines of (1, 0) and (0, 1) are 1 and 0: the odds of the labels are e^scale."""
    case = Case("mlp", {"hidden": []}, TaskSpec("classification", (2,), 2))
    tasks = torch.eye(2).double().unsqueeze(0)
    for scale in (1.0, 3.0):
        learner = make_learner("matching", case, scale=scale)
        adapted = learner.adapt({}, {"x": tasks, "y": torch.tensor([[0, 1]])}, 0)
        said = learner.predict({}, adapted, {"x": tasks[:, :1]})[0, 0]
        assert float(said[0] - said[1]) == pytest.approx(scale)


@pytest.mark.parametrize("name", ["sinusoid-mlp", "lstm"])
def test_other_tasks_than_classification_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="'matching' needs a classification task with one label"):
        make_learner("matching", CASES[name])
