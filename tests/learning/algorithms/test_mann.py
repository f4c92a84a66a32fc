from typing import Any

import pytest
import torch

from fedmeta.errors import ConfigError
from fedmeta.learning import Algorithm, Tensors
from fedmeta.learning.algorithms.mann import MANN
from fedmeta.tasks import TaskBatch, TaskSpec
from fedmeta.tasks.sequences import SHOWN, shown_labels
from tests.learning.cases import CASES, Case, assert_gradient, make_learner, make_state, make_tasks

SMALL: dict[str, Any] = {"hidden": 6, "slots": 5, "width": 3, "reads": 2}
SEQUENCE = TaskSpec("sequence", (4,), 3, instances=3)
READS = Case("mlp", {"hidden": [5], "activation": "tanh"}, SEQUENCE)
IMAGES = TaskSpec("sequence", (1, 12, 12), 3, instances=3)


def sequences(spec: TaskSpec = SEQUENCE, length: int = 8) -> TaskBatch:
    tasks = make_tasks(spec, support=3, query=length)
    query = {**tasks.query, SHOWN: shown_labels(tasks.query_y)}
    return TaskBatch({key: value[:, :0] for key, value in tasks.support.items()}, query)


def logits(learner: Algorithm, state: Tensors, tasks: TaskBatch) -> torch.Tensor:
    return learner.predict(state, learner.adapt(state, tasks.support, 1), tasks.query)


@pytest.mark.parametrize("options", [{}, {"first": "read"}, {"addressing": "ntm"}], ids=str)
@pytest.mark.parametrize("sequence", [True, False])
def test_update_is_the_derivative_of_the_loss(options: dict[str, str], sequence: bool) -> None:
    case = READS if sequence else CASES["image-mlp"]
    learner = make_learner("mann", case, **options, **SMALL)
    tasks = sequences() if sequence else make_tasks(case.spec)
    state = make_state(learner)
    updates, _ = learner.task_updates(state, tasks)

    def loss(at: Tensors) -> float:
        return float(learner.objective.loss(logits(learner, at, tasks), tasks.query).sum())

    assert_gradient(loss, state, updates)


@pytest.mark.parametrize("options", [{}, {"first": "read"}, {"addressing": "ntm"}], ids=str)
def test_the_last_of_a_sequence_is_predicted_as_a_query_after_the_rest(options: dict[str, str]) -> None:
    reader = make_learner("mann", READS, **options, **SMALL)
    spec = TaskSpec("classification", (4,), 3)
    asked = make_learner("mann", Case("mlp", READS.network, spec), **options, **SMALL)
    tasks, state = sequences(), make_state(reader)
    whole = logits(reader, state, tasks)
    for end in (3, 7):
        support = {key: tasks.query[key][:, :end] for key in ("x", "y")}
        # Another query beside it changes nothing.
        query = {"x": tasks.query["x"][:, [end, 0]]}
        said = asked.predict(state, asked.adapt(state, support, 1), query)
        torch.testing.assert_close(said[:, 0], whole[:, end])


def test_what_reads_first_cannot_see_what_a_query_writes() -> None:
    """So the weights of the support examples make up all that is read, once slots hold something."""
    spec = TaskSpec("classification", (4,), 3)
    learner = make_learner("mann", Case("mlp", READS.network, spec), first="read", **SMALL)
    assert isinstance(learner, MANN)
    tasks, state = make_tasks(spec, support=6, query=2), make_state(learner)
    _, own = learner.split(state)
    support = learner._embedded(state, tasks.support)
    features = learner._features(state, tasks.query)
    shares = learner.weigh(own, learner.condition(own, support), support, features)
    torch.testing.assert_close(shares.sum(-1), torch.ones_like(shares[..., 0]))


def test_a_prediction_depends_on_nothing_that_comes_later() -> None:
    learner, tasks = make_learner("mann", READS, **SMALL), sequences()
    state = make_state(learner)
    x, shown = tasks.query["x"].clone(), tasks.query[SHOWN].clone()
    x[:, 5:], shown[:, 5:] = 9.0, 2
    changed = TaskBatch(tasks.support, {**tasks.query, "x": x, SHOWN: shown})
    one, other = (logits(learner, state, drawn) for drawn in (tasks, changed))
    assert torch.equal(one[:, :5], other[:, :5])
    assert not torch.equal(one[:, 5], other[:, 5])


@pytest.mark.parametrize(
    ("algorithm", "case", "message"),
    [
        ("maml", READS, "algorithm 'maml' needs a support set, but a sequence has none"),
        ("mann", Case("conv4", {}, IMAGES), "transductive = false needs a support set"),
    ],
)
def test_algorithms_that_need_a_support_set_are_refused_for_sequences(
    algorithm: str, case: Case, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_learner(algorithm, case, transductive=False)
