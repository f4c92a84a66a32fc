"""Learning from streams: against loops written out for one stream, and matrices worked out by hand."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from fedmeta.learning import Algorithm, AlgorithmSetup, Tensors, build_algorithm, expand_state
from fedmeta.learning.online import OnlineRun, run_online, stream_learner, transfer
from fedmeta.tasks import TaskBatch, TaskSpec, torch_generator

STREAMS, SEGMENTS, SHOTS, QUERIES, WAYS, BATCH, STEPS = 3, 3, 5, 4, 3, 2, 4
GRADIENT = ["maml", "fomaml", "reptile", "meta_sgd", "anil", "boil", "imaml", "maml_pp", "fedavg"]


def learner(
    name: str, objective: str = "classification", options: Mapping[str, Any] | None = None
) -> Algorithm:
    spec = TaskSpec(objective, (4,), WAYS if objective == "classification" else 1)
    setup = AlgorithmSetup(name, options or {}, "mlp", {"hidden": [6]}, kernels="eager")
    return build_algorithm(setup, spec, 0)


def started(algorithm: Algorithm, streams: int = STREAMS) -> Tensors:
    state = algorithm.init(torch_generator(1, "state"))
    return expand_state({key: value.double() for key, value in state.items()}, streams)


def made(objective: str = "classification", streams: int = STREAMS) -> list[TaskBatch]:
    generator = torch_generator(2, "streams")

    def half(count: int) -> dict[str, Tensor]:
        x = torch.randn(streams, count, 4, generator=generator).double()
        if objective == "classification":
            y = torch.randint(WAYS, (streams, count), generator=generator)
            y[:, 0] = WAYS - 1
            return {"x": x, "y": y}
        return {"x": x, "y": torch.randn(streams, count, 1, generator=generator).double()}

    return [TaskBatch(half(SHOTS), half(QUERIES)) for _ in range(SEGMENTS)]


class LineByLine:
    """MAML for regression on one stream, written out: a network of one hidden layer, and SGD."""

    def __init__(self, state: Tensors, stream: int, rate: float) -> None:
        self.start = [
            state[name][stream].clone()
            for name in ("hidden0.weight", "hidden0.bias", "head.weight", "head.bias")
        ]
        self.rate = rate

    def say(self, weights: list[Tensor], x: Tensor) -> Tensor:
        w1, b1, w2, b2 = weights
        return torch.relu(x @ w1 + b1) @ w2 + b2

    def loss(self, weights: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        return ((self.say(weights, x) - y) ** 2).mean()

    def step(self, weights: list[Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
        own = [one.clone().requires_grad_() for one in weights]
        slopes = torch.autograd.grad(self.loss(own, x, y), own)
        return [(w - self.rate * g).detach() for w, g in zip(own, slopes, strict=True)]


def test_a_gradient_method_learns_as_a_loop_over_single_streams_does() -> None:
    algorithm = learner("maml", "regression", {"inner_lr": 0.05})
    state, segments = started(algorithm), made("regression")
    found = run_online(algorithm, state, segments, BATCH, STEPS)
    assert found.sizes == (2, 2, 1) * SEGMENTS
    for stream in range(STREAMS):
        own = LineByLine(state, stream, 0.05)
        weights, losses, still, best, online = own.start, [], [], [], []
        rows = [[own.loss(weights, s.query_x[stream], s.query_y[stream]) for s in segments]]
        for segment in segments:
            x, y = segment.support_x[stream], segment.support_y[stream]
            parts = [(x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:], y[4:])]
            said = []
            for one, truth in parts:
                losses.append(own.loss(weights, one, truth))
                still.append(own.loss(own.start, one, truth))
                said.append(own.say(weights, one))
                weights = own.step(weights, one, truth)
            online.append(((torch.cat(said) - y) ** 2).mean())
            rows.append([own.loss(weights, s.query_x[stream], s.query_y[stream]) for s in segments])
            path = [own.start]
            for _ in range(STEPS):
                path.append(own.step(path[-1], x, y))
            chosen = min(path, key=lambda one: float(own.loss(one, x, y)))
            best += [own.loss(chosen, one, truth) for one, truth in parts]
        expected = {"loss": losses, "still": still, "hindsight": best, "prequential": online}
        for name, values in expected.items():
            torch.testing.assert_close(getattr(found, name)[stream], torch.stack(values), msg=name)
        torch.testing.assert_close(found.matrix[stream], torch.tensor(rows).double())
        sizes = torch.tensor(found.sizes)
        summed = [float(sum(sizes[:i] * torch.stack(losses)[:i])) for i in range(1, len(losses) + 1)]
        assert found.summed(found.loss)[stream].tolist() == pytest.approx(summed)
        ahead = [float(sum(sizes[:i] * torch.stack(best)[:i])) for i in range(1, len(best) + 1)]
        wanted = [one - other for one, other in zip(summed, ahead, strict=True)]
        assert found.regret[stream].tolist() == pytest.approx(wanted)


def test_prototypes_are_the_means_of_all_examples_so_far() -> None:
    """A class not yet seen is where all examples so far are on average, at first at 0."""
    algorithm = learner("protonet")
    state, segments = started(algorithm), made()
    found = run_online(algorithm, state, segments, BATCH, 1)
    for stream in range(STREAMS):
        weight, bias = (state[f"hidden0.{name}"][stream] for name in ("weight", "bias"))
        seen: dict[int, list[Tensor]] = {label: [] for label in range(WAYS)}
        losses = []
        for segment in segments:
            x, y = segment.support_x[stream], segment.support_y[stream].tolist()
            for first in range(0, SHOTS, BATCH):
                embedded = torch.relu(x[first : first + BATCH] @ weight + bias)
                each = []
                for z, label in zip(embedded, y[first : first + BATCH], strict=False):
                    every = [one for own in seen.values() for one in own] or [torch.zeros_like(z)]
                    means = [torch.stack(seen[c] or every).mean(0) for c in range(WAYS)]
                    scores = torch.stack([-((z - mean) ** 2).sum() for mean in means])
                    each.append(-scores.log_softmax(0)[label])
                losses.append(torch.stack(each).mean())
                for z, label in zip(embedded, y[first : first + BATCH], strict=False):
                    seen[label].append(z)
        torch.testing.assert_close(found.loss[stream], torch.stack(losses))
        assert float(found.loss[stream, 0]) == pytest.approx(math.log(WAYS))


@pytest.mark.parametrize("name", ["fomaml", "meta_sgd", "anil", "protonet", "fedavg"])
def test_a_prediction_does_not_depend_on_its_label_or_later_ones(name: str) -> None:
    algorithm = learner(name)
    state, segments = started(algorithm), made()
    before = run_online(algorithm, state, segments, BATCH, 1)
    other = made()
    for place, segment in enumerate(other[1:]):
        y = segment.support_y.clone()
        y[:, (2 if place == 0 else 0) :] = (y[:, (2 if place == 0 else 0) :] + 1) % WAYS
        other[place + 1] = TaskBatch({**segment.support, "y": y}, segment.query)
    after = run_online(algorithm, state, other, BATCH, 1)
    assert torch.equal(before.loss[:, :4], after.loss[:, :4])
    assert torch.equal(before.matrix[:, :2], after.matrix[:, :2])
    assert not torch.equal(before.loss[:, 5:], after.loss[:, 5:])


LEARNED = ["lstm_optimizer", "coordinatewise_lstm"]


@pytest.mark.parametrize("name", [*GRADIENT, *LEARNED, "protonet", "scaffold", "fedprox"])
def test_what_was_learned_before_counts(name: str) -> None:
    """The same examples lead elsewhere from another start: nothing begins anew at each batch."""
    algorithm = learner(name)
    state, segments = started(algorithm), made()
    known = stream_learner(algorithm)
    assert known is not None
    begun = known.begin_stream(state, segments[0].support, WAYS)
    later = known.learn(state, begun, segments[0].support)
    fresh = known.learn(state, begun, segments[1].support)
    after = known.learn(state, later, segments[1].support)
    assert any(not torch.equal(value, fresh[key]) for key, value in after.items())


@pytest.mark.parametrize("name", [*GRADIENT, *LEARNED, "protonet", "scaffold", "fedprox"])
def test_streams_do_not_depend_on_each_other(name: str) -> None:
    algorithm = learner(name)
    state, segments = started(algorithm), made()
    whole = run_online(algorithm, state, segments, BATCH, 2)
    one = run_online(
        algorithm,
        {key: value[1:2] for key, value in state.items()},
        [s[1:2] for s in segments],
        BATCH,
        2,
    )
    for field in ("loss", "still", "hindsight", "prequential", "matrix"):
        torch.testing.assert_close(getattr(whole, field)[1:2], getattr(one, field))


@pytest.mark.parametrize("name", [one for one in GRADIENT if one != "imaml"])
def test_the_first_step_is_the_first_of_adaptation(name: str) -> None:
    algorithm = learner(name)
    state, segment = started(algorithm), made()[0]
    known = stream_learner(algorithm)
    assert known is not None
    begun = known.begin_stream(state, segment.support, WAYS)
    learned = known.learn(state, begun, segment.support)
    adapted = algorithm.adapt(state, segment.support, 1)
    assert learned.keys() == adapted.keys()
    for key, value in adapted.items():
        assert torch.equal(learned[key], value)


def test_imaml_is_pulled_to_the_meta_learned_weights() -> None:
    """The second term of L + lambda / 2 |phi - theta|^2 has the gradient lambda (phi - theta)."""
    algorithm = learner("imaml", options={"inner_lr": 0.1, "proximal": 3.0})
    state, segment = started(algorithm), made()[0]
    away = {key: value + 1.0 for key, value in state.items()}
    known = stream_learner(algorithm)
    assert known is not None
    found = known.learn(state, away, segment.support)
    own = {key: value.clone().requires_grad_() for key, value in away.items()}
    loss = algorithm.objective.loss(algorithm.model.forward(own, segment.support_x), segment.support)
    slopes = dict(zip(own, torch.autograd.grad(loss.sum(), list(own.values())), strict=True))
    for key, value in found.items():
        torch.testing.assert_close(value, away[key] - 0.1 * (slopes[key] + 3.0))


def test_a_new_head_is_made_once_and_then_learns() -> None:
    spec = TaskSpec("classification", (4,), 7, new_classes=True)
    setup = AlgorithmSetup("fedavg", {"inner_lr": 0.5}, "mlp", {"hidden": [6]}, kernels="eager")
    algorithm = build_algorithm(setup, spec, 0)
    state, segments = started(algorithm), made()
    known = stream_learner(algorithm)
    assert known is not None
    begun = known.begin_stream(state, segments[0].support, WAYS)
    assert begun["head.weight"].shape[-1] == WAYS
    assert not begun["head.weight"].any()
    once = known.learn(state, begun, segments[0].support)
    twice = known.learn(state, once, segments[1].support)
    assert once["head.weight"].any()
    assert not torch.equal(once["head.weight"], twice["head.weight"])
    adapted = dict(algorithm.trajectory(state, segments[0].support, [2]))[2]
    again = known.learn(state, once, segments[0].support)
    torch.testing.assert_close(again, adapted)


@pytest.mark.parametrize("name", ["mann", "snail", "r2d2", "matching", "relation", "metanet", "gnn"])
def test_a_method_that_reads_a_whole_support_set_cannot(name: str) -> None:
    assert stream_learner(learner(name)) is None


def test_transfer_and_forgetting_of_a_small_matrix() -> None:
    """Segments 1 to 3 in the columns; rows: before the stream, after segments 1, 2 and 3.

    ACC = (0.4 + 0.6 + 0.7) / 3; BWT = ((0.4 - 0.9) + (0.6 - 0.8)) / 2;
    FWT = ((0.3 - 0.2) + (0.4 - 0.3)) / 2; forgetting = ((0.9 - 0.4) + (0.8 - 0.6)) / 2.
    """
    matrix = torch.tensor([[[0.1, 0.2, 0.3], [0.9, 0.3, 0.2], [0.5, 0.8, 0.4], [0.4, 0.6, 0.7]]])
    found = transfer(matrix, higher_is_better=True)
    assert float(found.final) == pytest.approx(1.7 / 3)
    assert float(found.backward) == pytest.approx(-0.35)
    assert float(found.forward) == pytest.approx(0.1)
    assert float(found.forgetting) == pytest.approx(0.35)
    losses = transfer(-matrix, higher_is_better=False)
    assert float(losses.final) == pytest.approx(-1.7 / 3)
    assert float(losses.backward) == pytest.approx(-0.35)
    assert float(losses.forward) == pytest.approx(0.1)
    assert float(losses.forgetting) == pytest.approx(0.35)


def test_forgetting_is_measured_from_the_best_there_was() -> None:
    """Segment 2 was best after segment 1, before it came: 0.95 - 0.6, where BWT has 0.6 - 0.8."""
    matrix = torch.tensor([[[0.1, 0.2, 0.3], [0.9, 0.95, 0.2], [0.5, 0.8, 0.4], [0.4, 0.6, 0.7]]])
    found = transfer(matrix, higher_is_better=True)
    assert float(found.forgetting) == pytest.approx((0.5 + 0.35) / 2)
    assert float(found.backward) == pytest.approx(-0.35)


def test_regret_of_a_small_stream() -> None:
    """Batches of 2, 1, 2, 1: losses 3, 1, 2, 2 against 1, 1, 2.5, 0 sum to 4, 4, 3, 5."""
    loss, best = torch.tensor([[3.0, 1.0, 2.0, 2.0]]), torch.tensor([[1.0, 1.0, 2.5, 0.0]])
    found = OnlineRun((2, 1, 2, 1), loss, loss, best, loss, loss)
    assert found.summed(loss).tolist() == [[6.0, 7.0, 11.0, 13.0]]
    assert found.regret.tolist() == [[4.0, 4.0, 3.0, 5.0]]


def test_a_stream_that_diverges_has_the_worst_accuracy_and_spoils_no_other() -> None:
    algorithm = learner("maml", options={"inner_lr": 0.1})
    state, segments = started(algorithm), made()
    wild = {key: value.clone() for key, value in state.items()}
    wild["head.weight"][0] = math.inf
    found = run_online(algorithm, wild, segments, BATCH, 1)
    tame = run_online(algorithm, state, segments, BATCH, 1)
    assert not found.loss[0].isfinite().any()
    assert float(found.matrix[0].abs().sum()) == 0.0
    assert torch.equal(found.loss[1:], tame.loss[1:])
