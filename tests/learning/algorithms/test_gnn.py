import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fedmeta.errors import ConfigError, DataError
from fedmeta.learning import Tensors
from fedmeta.tasks import MASK, TaskSpec
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
SMALL = {"layers": 2, "width": 4}


def dense(own: Tensors, name: str, x: Tensor) -> Tensor:
    return x @ own[f"gnn.{name}.weight"] + own[f"gnn.{name}.bias"]


def normalised(own: Tensors, name: str, rows: Tensor) -> Tensor:
    weight, bias = own[f"gnn.{name}.weight"], own[f"gnn.{name}.bias"]
    return F.leaky_relu(F.batch_norm(rows, None, None, weight, bias, training=True))


def logits(own: Tensors, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
    """One query's graph, node by node and pair by pair (equations 2 and 3, the authors' widths)."""
    nodes = [torch.cat([x, F.one_hot(y, 3)]) for x, y in zip(support, labels, strict=True)]
    nodes.append(torch.cat([query, torch.full((3,), 1 / 3, dtype=torch.float64)]))
    for layer in range(3):
        pairs = {}
        for i in range(len(nodes)):
            for j in range(i):
                pairs[i, j] = (nodes[i] - nodes[j]).abs()
        rows = torch.stack(list(pairs.values()))
        for index in range(4):
            made = dense(own, f"adjacency{layer}.{index}", rows)
            rows = normalised(own, f"adjacency{layer}.norm{index}", made)
        score = dict(zip(pairs, dense(own, f"adjacency{layer}.4", rows)[:, 0], strict=True))
        inputs = []
        for i, node in enumerate(nodes):
            others = [j for j in range(len(nodes)) if j != i]
            weights = torch.stack([score[max(i, j), min(i, j)] for j in others]).softmax(0)
            inputs.append(torch.cat([node, sum(w * nodes[j] for w, j in zip(weights, others))]))  # noqa: B905
        made = dense(own, f"convolution{layer}", torch.stack(inputs))
        if layer == 2:
            break
        made = normalised(own, f"convolution{layer}.norm", made)
        nodes = [torch.cat([node, more]) for node, more in zip(nodes, made, strict=True)]
    return made[-1]


def test_logits_are_those_of_the_paper_graph_by_graph() -> None:
    learner = make_learner("gnn", LINEAR, **SMALL)
    tasks, state = make_tasks(LINEAR.spec, query=3), make_state(learner)
    said = learner.predict(state, learner.adapt(state, tasks.support, 0), tasks.query)
    for task in range(2):
        own = {key: value[task] for key, value in state.items()}
        support, query = (
            half[task] @ own["weight"].T + own["bias"] for half in (tasks.support_x, tasks.query_x)
        )
        expected = torch.stack([logits(own, support, tasks.support_y[task], one) for one in query])
        torch.testing.assert_close(said[task], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("transductive", [True, False])
def test_update_is_the_derivative_of_the_query_loss(transductive: bool) -> None:
    learner = make_learner("gnn", CASES["conv4-max"], transductive, layers=1, width=4)
    tasks, state = make_tasks(learner.spec), make_state(learner)
    updates, _ = learner.task_updates(state, tasks)
    assert_gradient(lambda at: loss_after(learner, at, tasks, 0), state, updates)


def test_a_prediction_does_not_depend_on_other_examples_however_many_there_are() -> None:
    learner = make_learner("gnn", LINEAR, **SMALL)
    tasks, state = make_tasks(LINEAR.spec, query=40), make_state(learner)
    adapted = learner.adapt(state, tasks.support, 0)
    together = learner.predict(state, adapted, tasks.query)
    alone = learner.predict(state, adapted, {"x": tasks.query_x[:, 35:36]})
    torch.testing.assert_close(together[:, 35:36], alone, rtol=1e-10, atol=1e-12)


def test_a_padded_support_set_is_refused() -> None:
    learner = make_learner("gnn", LINEAR, **SMALL)
    tasks, state = make_tasks(LINEAR.spec), make_state(learner)
    support = {**tasks.support, MASK: torch.ones(2, 6, dtype=torch.bool)}
    with pytest.raises(DataError, match="'gnn' needs support sets of equal size"):
        learner.adapt(state, support, 0)


def test_ways_are_limited_to_those_of_the_spec() -> None:
    assert make_learner("gnn", LINEAR).max_ways == 3
    assert make_learner("protonet", LINEAR).max_ways is None


@pytest.mark.parametrize("name", ["sinusoid-mlp", "lstm"])
def test_other_tasks_than_classification_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="'gnn' needs a classification task with one label"):
        make_learner("gnn", CASES[name])
