"""Support examples behind predictions: weights of the methods themselves, and leaving each one out."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fedmeta.errors import DataError
from fedmeta.learning import ALGORITHMS, Tensors
from fedmeta.learning.attention import attend
from fedmeta.learning.embedding import EmbeddingAlgorithm
from fedmeta.learning.explain import ExplainedTask, leave_one_out, support_evidence, without_padding
from fedmeta.learning.memory import Access, MemoryNetwork, origins
from fedmeta.tasks import TaskBatch, TaskSpec
from tests.learning.cases import CASES, EMBEDDING, WAYS, Case, make_learner, make_state, make_tasks

LINEAR = Case("mlp", {"hidden": []}, TaskSpec("classification", (4,), WAYS))
"""A softmax regression, whose gradient is written down in a line."""
FLAT = Case("mlp", {"hidden": [5]}, TaskSpec("classification", (4,), WAYS))
WEIGHED = [
    name
    for name in EMBEDDING
    if ALGORITHMS.get(name).weigh is not EmbeddingAlgorithm.weigh  # type: ignore[attr-defined]
]


def one_task(algorithm: str, case: Case, support: int = 6, steps: int = 2) -> ExplainedTask:
    learner = make_learner(algorithm, case)
    tasks = make_tasks(case.spec, tasks=1, support=support, query=4)
    return ExplainedTask(learner, make_state(learner, 1), tasks.support, tasks.query, steps)


def softmax_regression(weights: Tensors, x: Tensor, y: Tensor, steps: int, rate: float) -> Tensors:
    """Descend the mean cross-entropy: its gradient is ``x' (p - y) / n``."""
    weight, bias = weights["head.weight"][0], weights["head.bias"][0]
    for _ in range(steps):
        wrong = (x @ weight + bias).softmax(-1) - F.one_hot(y, WAYS)
        weight, bias = weight - rate * x.T @ wrong / len(x), bias - rate * wrong.mean(0)
    return {"weight": weight, "bias": bias}


def test_leaving_an_example_out_is_adapting_without_it_by_hand() -> None:
    task = one_task("maml", LINEAR)
    x, y, asked = task.support["x"][0], task.support["y"][0], task.query["x"][0]
    rate = task.algorithm.options.inner_lr

    def chances(kept: list[int]) -> Tensor:
        found = softmax_regression(task.state, x[kept], y[kept], task.steps, rate)
        return (asked @ found["weight"] + found["bias"]).softmax(-1)

    full = chances([*range(6)])
    said = full.argmax(-1)
    expected = torch.zeros(4, 6, dtype=torch.float64)
    for left_out in range(6):
        without = chances([i for i in range(6) if i != left_out])
        for query in range(4):
            expected[query, left_out] = full[query, said[query]] - without[query, said[query]]
    found = leave_one_out(task)
    torch.testing.assert_close(found, expected)
    assert found.abs().max() > 1e-4
    evidence = support_evidence(task)
    assert evidence.how == "leave-one-out"
    assert torch.equal(evidence.values, found)


def test_a_class_with_one_example_can_be_left_out_by_gradients_and_not_by_ridge_regression() -> None:
    assert leave_one_out(one_task("maml", FLAT, support=WAYS)).shape == (4, WAYS)
    with pytest.raises(DataError, match="the only one of its class cannot be left out"):
        leave_one_out(one_task("r2d2", FLAT, support=WAYS))
    assert leave_one_out(one_task("r2d2", FLAT)).shape == (4, 6)


def test_an_only_example_and_tasks_without_labels_are_refused() -> None:
    with pytest.raises(DataError, match="the only support example"):
        leave_one_out(one_task("maml", FLAT, support=1))
    with pytest.raises(DataError, match="a label per example"):
        leave_one_out(one_task("maml", CASES["sinusoid-mlp"]))
    with pytest.raises(DataError, match="a label per example"):
        leave_one_out(one_task("maml", CASES["lstm"]))


def test_a_prototype_s_weights_are_a_softmax_of_distances_by_hand() -> None:
    task = one_task("protonet", FLAT, support=6)
    weight, bias = task.state["hidden0.weight"][0], task.state["hidden0.bias"][0]
    z, f = ((half["x"][0] @ weight + bias).relu() for half in (task.query, task.support))
    y = task.support["y"][0]
    found = support_evidence(task)
    assert found.how == "weights"
    for query in range(4):
        far = [float((z[query] - f[y == k].mean(0)).square().sum()) for k in range(WAYS)]
        chance = torch.softmax(-torch.tensor(far, dtype=torch.float64), 0)
        for example in range(6):
            own = [i for i in range(6) if y[i] == y[example]]
            near = {i: torch.exp(-(z[query] - f[i]).square().sum()) for i in own}
            expected = chance[y[example]] * near[example] / torch.stack([*near.values()]).sum()
            assert float(found.values[query, example]) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("name", WEIGHED)
def test_weights_are_shares(name: str) -> None:
    task = one_task(name, FLAT)
    weights = support_evidence(task).values
    assert weights.shape == (4, 6)
    assert (weights >= 0).all()
    total = weights.sum(-1)
    if name in ("snail", "transformer", "mann"):
        # The rest is what a query reads of itself.
        assert ((total > 0.1) & (total < 1)).all()
    else:
        torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("name", ["protonet", "relation", "matching"])
def test_a_class_s_weights_sum_to_its_probability(name: str) -> None:
    task = one_task(name, FLAT)
    chances = task.chances(task.support)[0]
    members = F.one_hot(task.support["y"][0], WAYS).double()
    torch.testing.assert_close(support_evidence(task).values @ members, chances)


def test_metric_and_attention_methods_weigh_their_support() -> None:
    named = {"protonet", "matching", "relation", "gnn", "snail", "transformer", "mann"}
    assert named <= set(WEIGHED)


def test_attention_that_is_kept_is_what_it_reads_by() -> None:
    """Read values that are the unit vectors: what is read are the weights themselves."""
    draw = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 5, 3, generator=draw) for _ in range(2))
    allowed = torch.ones(1, 5, 3, dtype=torch.bool)
    seen: list[Tensor] = []
    read = attend(query, key, torch.eye(5).unsqueeze(0), allowed, seen)
    (weights,) = seen
    torch.testing.assert_close(read[..., :3], weights[..., :3])
    torch.testing.assert_close(read[0, 3:].diagonal(3), weights[0, 3:, 3])
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 5))


def memory_network(addressing: str) -> MemoryNetwork:
    return MemoryNetwork(inputs=3, hidden=4, slots=5, width=2, reads=2, addressing=addressing, scale=2.0)


@pytest.mark.parametrize("addressing", ["lrua", "ntm"])
def test_a_memory_s_trace_is_where_it_reads(addressing: str) -> None:
    """What the heads read is their weights' mean of the slots, step by step."""
    network = memory_network(addressing)
    draw = torch.Generator().manual_seed(0)
    params = {key: value.unsqueeze(0) for key, value in network.init(draw).items()}
    params["heads.weight"] = torch.randn(params["heads.weight"].shape, generator=draw)
    x = torch.randn(1, 1, 4, 3, generator=draw)
    access = network.trace(params, x, network.begin(x))
    for step in range(4):
        output, state = network.run(params, x[:, :, : step + 1], network.begin(x))
        found = (access.reads[step] @ state["memory"]).flatten(2)
        torch.testing.assert_close(output[:, :, -1, network.hidden :], found)
    if addressing == "lrua":
        used = sum(
            network.decay ** (3 - step) * (access.reads[step] + access.writes[step]).sum(2)
            for step in range(4)
        )
        torch.testing.assert_close(state["usage"], used)


def test_origins_follow_what_is_written_and_erased() -> None:
    """Two slots, three steps: the second step halves what slot 0 holds, and the third empties slot 1."""
    writes = torch.tensor([[[[[1.0, 0.0]]]], [[[[0.0, 0.5]]]], [[[[0.25, 0.25]]]]])
    kept = torch.tensor([[[[1.0, 1.0]]], [[[0.5, 1.0]]], [[[1.0, 0.0]]]])
    held = origins(Access(writes, writes, kept))
    assert held[0, 0].tolist() == [[0.5, 0.0, 0.25], [0.0, 0.0, 0.25]]


def test_a_memory_is_read_and_written_by_support_and_queries() -> None:
    task = one_task("mann", FLAT)
    found = task.algorithm.memory_access(task.state, TaskBatch(task.support, task.query))
    assert found is not None
    reads, writes = found
    assert reads.shape == writes.shape == (1, 6 + 4, 128)
    torch.testing.assert_close(reads.sum(-1), torch.ones(1, 10, dtype=torch.float64))
    assert one_task("protonet", FLAT).algorithm.memory_access(task.state, TaskBatch({}, {})) is None


def test_a_method_s_rates_are_found_by_tensor() -> None:
    learner = make_learner("meta_sgd", FLAT)
    state = learner.init(torch.Generator())
    rates = learner.learned_rates(state)
    assert {key: tuple(value.shape) for key, value in rates.items()} == {
        key: (1, value.numel()) for key, value in learner.model.init(torch.Generator()).items()
    }
    assert torch.equal(rates["head.weight"][0], state["lr.head.weight"].flatten())
    learner = make_learner("maml_pp", FLAT, inner_steps=3)
    state = learner.init(torch.Generator())
    assert torch.equal(learner.learned_rates(state)["head.bias"][:, 0], state["lr.head.bias"])
    assert make_learner("maml", FLAT).learned_rates(state) == {}


def test_padding_is_left_out() -> None:
    kept = torch.tensor([[True, False, True]])
    found = without_padding({"x": torch.tensor([[[1.0], [2.0], [3.0]]]), "mask": kept})
    assert found["x"].tolist() == [[[1.0], [3.0]]]
    assert "mask" not in found
