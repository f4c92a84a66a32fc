"""Flower's own strategies on fedmeta's clients, compared with results by hand."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, FedProx, QFedAvg, Result, Strategy
from numpy.typing import NDArray

from fedmeta.federation import Learner, VectorGrid, Workload, build_client_app
from fedmeta.federation.engines.vector.jobs import InProcess
from fedmeta.federation.flower import as_server, new_context, quiet, stamp
from fedmeta.learning import Tensors
from fedmeta.learning.device import one_thread
from fedmeta.tasks import Population
from tests.federation.helpers import SINUSOID

EVERYBODY = replace(SINUSOID, population=Population(5, 0, 0), dtype="float64", local_lr=0.1)
Weights = dict[str, NDArray[np.float64]]


def run_flower(strategy: Strategy, workload: Workload, rounds: int = 1) -> Result:
    """What a user's ServerApp does with a strategy of Flower's, on a grid of our clients."""
    with one_thread(), as_server(), quiet():
        learner = Learner.build(workload)
        grid = VectorGrid(learner, InProcess(learner))
        start = ArrayRecord({k: Array(v.numpy()) for k, v in learner.init_state().items()})
        return strategy.start(grid, start, num_rounds=rounds)


def arrays(result: Result) -> Weights:
    return {key: array.numpy() for key, array in result.arrays.items()}


def client_weights(workload: Workload, state: Tensors, round_: int) -> list[Weights]:
    """Where each client's steps end, from its update alone."""
    learner = Learner.build(workload)
    found = []
    with one_thread():
        for client in range(workload.population.train):
            update = learner.train(state, round_, [client]).updates
            found.append({k: (v - workload.local_lr * update[k][0]).numpy() for k, v in state.items()})
    return found


def assert_close(one: Mapping[str, Any], other: Mapping[str, Any], rtol: float = 1e-10) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        np.testing.assert_allclose(value, other[key], rtol=rtol, atol=1e-13)


@pytest.mark.parametrize("steps", [1, 3])
def test_fedavg_averages_the_weights_where_clients_steps_end(steps: int) -> None:
    workload = replace(EVERYBODY, local_steps=steps)
    state = Learner.build(workload).init_state()
    for round_ in (1, 2):
        ends = client_weights(workload, state, round_)
        mean = {key: np.mean([end[key] for end in ends], axis=0) for key in state}
        assert_close(arrays(run_flower(FedAvg(), workload, round_)), mean)
        state = {key: torch.from_numpy(value) for key, value in mean.items()}


def test_one_step_under_fedavg_is_a_step_of_sgd_at_local_lr() -> None:
    learner = Learner.build(EVERYBODY)
    state = learner.init_state()
    with one_thread():
        updates = [learner.train(state, 1, [client]).updates for client in range(5)]
    expected = {
        key: value.numpy() - 0.1 * np.mean([update[key][0].numpy() for update in updates], axis=0)
        for key, value in state.items()
    }
    assert_close(arrays(run_flower(FedAvg(), EVERYBODY)), expected)


def test_fedmedian_takes_the_median_of_weights() -> None:
    ends = client_weights(EVERYBODY, Learner.build(EVERYBODY).init_state(), 1)
    expected = {key: np.median([end[key] for end in ends], axis=0) for key in ends[0]}
    assert_close(arrays(run_flower(FedMedian(), EVERYBODY)), expected)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_fedadam_steps_along_the_mean_change_of_weights(dtype: str) -> None:
    """Reddi et al. 2021, Algorithm 2, with the bias correction that Flower adds; two rounds.

    From float32 weights it makes float64 ones, which the clients must take in the second round.
    """
    workload = replace(EVERYBODY, dtype=dtype)  # type: ignore[arg-type]
    eta, beta_1, beta_2, tau = 0.01, 0.9, 0.99, 1e-3
    x = {k: v.numpy().astype(np.float64) for k, v in Learner.build(workload).init_state().items()}
    m = {key: np.zeros_like(value) for key, value in x.items()}
    v = {key: np.zeros_like(value) for key, value in x.items()}
    for round_ in (1, 2):
        narrow = {k: torch.from_numpy(a).to(getattr(torch, dtype)) for k, a in x.items()}
        learner = Learner.build(workload)
        with one_thread():
            updates = [learner.train(narrow, round_, [client]).updates for client in range(5)]
        rate = eta * math.sqrt(1 - beta_2 ** (round_ + 1)) / (1 - beta_1 ** (round_ + 1))
        for key in x:
            delta = -0.1 * np.mean([u[key][0].double().numpy() for u in updates], axis=0)
            m[key] = beta_1 * m[key] + (1 - beta_1) * delta
            v[key] = beta_2 * v[key] + (1 - beta_2) * delta**2
            x[key] = x[key] + rate * m[key] / (np.sqrt(v[key]) + tau)
    adam = FedAdam(eta=eta, beta_1=beta_1, beta_2=beta_2, tau=tau)
    found = arrays(run_flower(adam, workload, 2))
    assert {value.dtype.name for value in found.values()} == {"float64"}
    for key, value in x.items():
        # In float32 the first round's change of weights has lost digits; the rest follows.
        tolerance = 1e-9 if dtype == "float64" else 2e-4
        np.testing.assert_allclose(found[key], value, rtol=0, atol=tolerance)


def test_fedprox_pulls_each_local_step_towards_the_start() -> None:
    """Li et al. 2020: w <- w - lr (g + mu (w - w_0)), written out with the gradients of each step."""
    mu, lr = 0.7, 0.1
    workload = replace(EVERYBODY, local_steps=2, local_lr=lr, population=Population(2, 0, 0))
    learner = Learner.build(workload)
    state = learner.init_state()
    ends = []
    with one_thread():
        for client in range(2):
            tasks = learner.sample(1, client)
            w = state
            for step in range(2):
                own = {key: value[None] for key, value in w.items()}
                gradients, _ = learner.algorithm.task_updates(own, tasks[step : step + 1])
                w = {k: w[k] - lr * (gradients[k][0] + mu * (w[k] - state[k])) for k in w}
            ends.append(w)
    expected = {key: (ends[0][key] + ends[1][key]).detach().numpy() / 2 for key in state}
    prox = arrays(run_flower(FedProx(proximal_mu=mu), workload))
    assert_close(prox, expected)
    plain = arrays(run_flower(FedAvg(), workload))
    assert any(not np.allclose(prox[key], plain[key], rtol=1e-6) for key in plain)


def test_qfedavg_weighs_by_the_loss_that_clients_report() -> None:
    """Li et al. 2020, "Fair Resource Allocation", Algorithm 2, for q = 1."""
    workload = replace(EVERYBODY, population=Population(3, 0, 0))
    learner = Learner.build(workload)
    state = learner.init_state()
    lipschitz, top, bottom = 1 / 0.1, {k: np.zeros(v.shape) for k, v in state.items()}, 0.0
    with one_thread():
        for client in range(3):
            update = learner.train(state, 1, [client])
            loss = float(update.metrics["loss"][0])
            steps = {k: lipschitz * 0.1 * v[0].numpy() for k, v in update.updates.items()}
            top = {k: top[k] + loss * steps[k] for k in top}
            bottom += sum(float((s**2).sum()) for s in steps.values()) + lipschitz * loss
    expected = {key: value.numpy() - top[key] / bottom for key, value in state.items()}
    found = run_flower(QFedAvg(q=1.0, client_learning_rate=0.1, train_loss_key="loss"), workload)
    assert_close(arrays(found), expected, rtol=1e-7)


def test_a_run_is_the_same_bytes_again_and_rounds_differ() -> None:
    one, other = (run_flower(FedAvg(), SINUSOID, 3) for _ in range(2))
    assert {k: a.data for k, a in one.arrays.items()} == {k: a.data for k, a in other.arrays.items()}
    losses = [record["loss"] for record in one.train_metrics_clientapp.values()]
    assert len(set(map(str, losses))) == 3


def ask(workload: Workload, client: int, kind: str, content: RecordDict, **options: Any) -> Message:
    with one_thread(), as_server():
        app = build_client_app(Learner.build(workload), **options)
        message = Message(content, client + 2, kind)
        stamp(message, "1")
        return app(message, new_context(client + 2, client, len(workload.population)))


def request(workload: Workload, name: str = "arrays", **config: Any) -> RecordDict:
    state = Learner.build(workload).init_state()
    record = ArrayRecord({key: Array(value.numpy()) for key, value in state.items()})
    return RecordDict({name: record, "config": ConfigRecord(config)})


def metrics_of(reply: Message) -> MetricRecord:
    (metrics,) = reply.content.metric_records.values()
    return metrics


def test_evaluation_is_means_over_the_clients_tasks() -> None:
    metrics = metrics_of(
        ask(SINUSOID, 13, MessageType.EVALUATE, request(SINUSOID, **{"server-round": 4}))
    )
    learner = Learner.build(SINUSOID)
    sums = learner.evaluate(learner.init_state(), 13, 4)
    means = [value / 6 for value in sums.sums["loss"]]
    assert metrics["num-examples"] == 6
    assert [metrics[f"loss-step-{step}"] for step in (0, 1, 3)] == pytest.approx(means, rel=1e-6)
    assert metrics["loss"] == metrics["loss-step-3"]
    images = replace(SINUSOID, task="tests.federation.helpers:NoisyImages", data={})
    found = metrics_of(ask(images, 0, MessageType.EVALUATE, request(images, **{"server-round": 1})))
    assert 0.0 <= float(found["accuracy"]) <= 1.0  # type: ignore[arg-type]
    assert all(isinstance(value, int | float) for value in found.values())


def test_the_round_decides_who_asked_and_an_option_overrides_it() -> None:
    ours = ask(SINUSOID, 1, MessageType.TRAIN, request(SINUSOID, round=2))
    flowers = ask(SINUSOID, 1, MessageType.TRAIN, request(SINUSOID, **{"server-round": 2}))
    both = ask(SINUSOID, 1, MessageType.TRAIN, request(SINUSOID, round=9, **{"server-round": 2}))
    forced = ask(SINUSOID, 1, MessageType.TRAIN, request(SINUSOID, round=2), stock=True)
    assert metrics_of(ours)["num-tasks"] == 1
    for reply in (flowers, both, forced):
        assert metrics_of(reply)["num-examples"] == 1
        assert reply.content.array_records == flowers.content.array_records
    start = Learner.build(SINUSOID).init_state()
    for key, array in flowers.content.array_records["arrays"].items():
        update = ours.content.array_records["arrays"][key].numpy()
        np.testing.assert_allclose(array.numpy(), start[key].numpy() - 0.01 * update, atol=1e-7)


def test_arrays_come_back_under_the_key_that_they_came_with() -> None:
    reply = ask(SINUSOID, 0, MessageType.TRAIN, request(SINUSOID, "weights", **{"server-round": 1}))
    assert list(reply.content.array_records) == ["weights"]
    under = run_flower(FedAvg(arrayrecord_key="weights", configrecord_key="how"), EVERYBODY)
    assert_close(arrays(under), arrays(run_flower(FedAvg(), EVERYBODY)))


def test_a_held_out_client_does_not_train_under_any_strategy() -> None:
    reply = ask(SINUSOID, 12, MessageType.TRAIN, request(SINUSOID, **{"server-round": 1}))
    assert reply.error.reason == "client 12 is held out for validation: it does not train"
    trained = {k: v.astype(np.float64) for k, v in arrays(run_flower(FedAvg(), SINUSOID)).items()}
    ends = client_weights(SINUSOID, Learner.build(SINUSOID).init_state(), 1)
    for key, value in trained.items():
        np.testing.assert_allclose(value, np.mean([end[key] for end in ends], axis=0), atol=1e-6)


def test_a_client_that_diverges_reports_it_and_sends_no_nan() -> None:
    """FedAvg would average NaN into all clients' weights."""
    wild = replace(SINUSOID, local_lr=1e38, local_steps=3)
    reply = ask(wild, 0, MessageType.TRAIN, request(wild, **{"server-round": 1}))
    assert reply.error.reason is not None
    assert reply.error.reason.startswith("diverged: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (RecordDict(), "'server-round', as Flower's strategies send it, or 'round'"),
        (request(SINUSOID, **{"server-round": 1, "proximal-mu": -1.0}), "'proximal-mu' = -1.0 is not a"),
        (request(SINUSOID), "or 'round'"),
        (RecordDict({"config": ConfigRecord({"server-round": 1})}), "needs one ArrayRecord"),
    ],
)
def test_an_invalid_request_is_refused_in_one_line(content: RecordDict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ask(SINUSOID, 0, MessageType.TRAIN, content)
    assert "\n" not in str(caught.value)


def test_arrays_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"is missing|is not part of the model"):
        ask(
            SINUSOID,
            0,
            MessageType.TRAIN,
            RecordDict(
                {
                    "arrays": ArrayRecord({"w": Array(np.zeros(3))}),
                    "config": ConfigRecord({"server-round": 1}),
                }
            ),
        )
    wrong = request(SINUSOID, **{"server-round": 1})
    key = next(iter(wrong.array_records["arrays"]))
    wrong.array_records["arrays"][key] = Array(np.zeros((3, 3, 3)))
    with pytest.raises(ValueError, match=r"has shape \(3, 3, 3\), not"):
        ask(SINUSOID, 0, MessageType.TRAIN, wrong)
