"""A user's Flower strategy in our run: after the gate, with weights, and resumed bit for bit."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, RecordDict

from fedmeta.errors import ConfigError, RunError, UsageError
from fedmeta.experiment import Config, RunFolder, resume, run
from fedmeta.experiment.planning import resolve
from fedmeta.federation import AggregationOptions, Learner, Plan, ServerOptions
from fedmeta.federation.mods import user_mods
from fedmeta.learning import Tensors
from tests.experiment.helpers import TINY
from tests.federation import flower_parts
from tests.federation.helpers import SINUSOID, assert_same, reply_mod, run_on_grid

PARTS = "tests.federation.flower_parts"
STRATEGIES = "flwr.serverapp.strategy"
WIDE = replace(SINUSOID, dtype="float64", local_lr=0.1)
PLAN = Plan(rounds=3, cohort=6)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    flower_parts.SEEN.clear()


def trained(rule: str, rounds: int = 3, **options: Any) -> Tensors:
    how = AggregationOptions(rule=rule, options=options)
    snapshot, _ = run_on_grid(WIDE, replace(PLAN, rounds=rounds, aggregation=how))
    return snapshot.state


def ours(rounds: int = 3, **server: Any) -> Tensors:
    """The state by our mean and our optimizer."""
    plan = replace(PLAN, rounds=rounds, server=ServerOptions(**server))
    return run_on_grid(WIDE, plan)[0].state


def assert_close(one: Tensors, other: Tensors, rtol: float = 1e-9) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        np.testing.assert_allclose(value.numpy(), other[key].numpy(), rtol=rtol, atol=1e-12)


def test_fedavg_is_our_mean_and_a_step_of_sgd_at_local_lr() -> None:
    assert_close(trained(f"{STRATEGIES}:FedAvg"), ours(optimizer="SGD", lr=0.1))


def test_fedavgm_is_our_mean_and_sgd_with_momentum() -> None:
    """Hsu et al. 2019; Flower's is torch's SGD along the mean change of weights."""
    theirs = trained(f"{STRATEGIES}:FedAvgM", 4, server_learning_rate=0.5, server_momentum=0.9)
    assert_close(theirs, ours(4, optimizer="SGD", lr=0.05, options={"momentum": 0.9}))


def test_fedadagrad_is_our_mean_and_adagrad() -> None:
    """Reddi et al. 2021, Algorithm 2: x + eta d / (sqrt(sum d^2) + tau), for d = -local_lr g.

    That is torch's Adagrad with eps = tau / local_lr, as the factor local_lr cancels.
    """
    theirs = trained(f"{STRATEGIES}:FedAdagrad", eta=0.02, tau=1e-3)
    assert_close(theirs, ours(optimizer="Adagrad", lr=0.02, options={"eps": 1e-2}))


def test_fedmedian_is_our_median_and_a_step_of_sgd() -> None:
    plan = replace(
        PLAN,
        aggregation=AggregationOptions(rule="median"),
        server=ServerOptions(optimizer="SGD", lr=0.1),
    )
    assert_close(trained(f"{STRATEGIES}:FedMedian"), run_on_grid(WIDE, plan)[0].state)


def test_a_users_strategy_is_shown_what_the_gate_admitted_and_nothing_else() -> None:
    def spoil(reply: RecordDict) -> None:
        arrays = reply.array_records["arrays"]
        key, array = next(iter(arrays.items()))
        arrays[key] = Array(np.full_like(array.numpy(), np.inf))

    how = AggregationOptions(rule=f"{PARTS}:Momentum", options={"momentum": 0.5})
    plan = replace(PLAN, cohort=12, aggregation=how)
    snapshot, records = run_on_grid(WIDE, plan, mods={3: [reply_mod(spoil)]})
    assert flower_parts.SEEN == [[1] * 11] * 3
    assert [(r.admitted, r.quarantined, r.skipped) for r in records] == [(11, 1, False)] * 3
    assert all(np.isfinite(value.numpy()).all() for value in snapshot.state.values())


def test_the_cohort_stays_ours_and_the_global_generator_is_left_alone() -> None:
    random.seed(4)
    expected = random.random()
    random.seed(4)
    how = AggregationOptions(rule=f"{STRATEGIES}:FedAvg", options={"fraction_train": 0.5})
    _, records = run_on_grid(WIDE, replace(PLAN, aggregation=how))
    assert random.random() == expected
    _, plain = run_on_grid(WIDE, PLAN)
    asked = [[client.client for client in record.clients] for record in records]
    assert asked == [[client.client for client in record.clients] for record in plain]


def test_one_client_a_round_does_not_wait_for_the_two_that_flower_wants() -> None:
    how = AggregationOptions(rule=f"{STRATEGIES}:FedAvg")
    _, [record] = run_on_grid(WIDE, Plan(rounds=1, cohort=1, aggregation=how))
    assert record.admitted == 1


def test_a_records_update_norm_is_how_far_the_state_moved() -> None:
    """The norm is that of how far the state moved; the server's learning rate had no part in it."""
    how = AggregationOptions(rule=f"{STRATEGIES}:FedAdagrad")
    snapshot, [record] = run_on_grid(WIDE, replace(PLAN, rounds=1, aggregation=how))
    start = Learner.build(WIDE).init_state()
    moved = sum(float((snapshot.state[key] - start[key]).square().sum()) for key in start)
    assert record.update_norm == pytest.approx(moved**0.5, rel=1e-9)
    assert np.isnan(record.lr)


def test_a_strategy_that_aggregates_nothing_skips_the_round() -> None:
    how = AggregationOptions(rule=f"{PARTS}:Nothing")
    _, records = run_on_grid(WIDE, replace(PLAN, aggregation=how))
    assert [record.skipped for record in records] == [False, True, False]


def test_fedprox_reaches_the_clients_local_steps() -> None:
    far = replace(WIDE, local_steps=3)

    def state(rule: str, **options: Any) -> Tensors:
        how = AggregationOptions(rule=f"{STRATEGIES}:{rule}", options=options)
        return run_on_grid(far, replace(PLAN, rounds=1, aggregation=how))[0].state

    start, free = Learner.build(far).init_state(), state("FedAvg")
    assert_close(state("FedProx", proximal_mu=0.0), free, rtol=1e-7)
    held = state("FedProx", proximal_mu=5.0)

    def way(found: Tensors) -> float:
        return sum(float((found[key] - start[key]).square().sum()) for key in start) ** 0.5

    assert way(held) < 0.9 * way(free)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("Broken", "round 1: .*Broken failed: KeyError: 'oops'"),
        ("Short", "round 1: .*Short returned a wrong state: '.*' is missing"),
    ],
)
def test_a_strategy_that_fails_ends_the_run_in_one_line(part: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        trained(f"{PARTS}:{part}")


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("nowhere:Strategy", {}, r"aggregation\.rule 'nowhere:Strategy' cannot be imported"),
        (f"{STRATEGIES}:FedAdm", {}, "no 'FedAdm' there; did you mean 'FedAdam'"),
        (f"{PARTS}:not_a_mod", {}, "is not a Flower strategy, nor a function that returns one"),
        ("collections:Counter", {}, "is not a Flower strategy, nor a function that returns one"),
        (f"{PARTS}:no_strategy", {}, "returns str, not a Flower strategy"),
        (f"{STRATEGIES}:FedAdam", {"et": 1.0}, r"does not take aggregation\.options: TypeError: .*'et'"),
        (f"{STRATEGIES}:FedTrimmedAvg", {"beta": 0.7}, r"aggregation\.options: ValueError: `beta` must"),
        (f"{STRATEGIES}:Strategy", {}, r"does not take aggregation\.options: TypeError"),
    ],
)
def test_a_path_that_leads_to_no_strategy_is_one_line(
    rule: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resolve(Config(**{**TINY, "aggregation": {"rule": rule, "options": options}}))
    assert "\n" not in str(caught.value)


def by_name(tensors: Tensors) -> Tensors:
    return dict(sorted(tensors.items()))


def config(rule: str, rounds: int, **options: Any) -> Config:
    table = {"rule": rule, "options": options}
    return Config(**{**TINY, "rounds": rounds, "aggregation": table, "checkpoint_every": 1})


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        (f"{STRATEGIES}:FedAdam", {"beta_1": 0.9, "beta_2": 0.99, "eta": 0.05}),
        (f"{STRATEGIES}:FedYogi", {"eta": 0.05}),
        (f"{STRATEGIES}:FedAvgM", {"server_momentum": 0.8, "server_learning_rate": 0.7}),
        pytest.param(
            f"{STRATEGIES}:QFedAvg",
            {"train_loss_key": "loss", "client_learning_rate": 0.01},
            marks=pytest.mark.slow,
        ),
        (f"{STRATEGIES}:FedMedian", {}),
        (f"{PARTS}:Momentum", {"momentum": 0.8}),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    tmp_path: Path, rule: str, options: dict[str, Any]
) -> None:
    run(config(rule, 4, **options), out=tmp_path / "straight")
    run(config(rule, 2, **options), out=tmp_path / "cut")
    resume(tmp_path / "cut", {"rounds": 4})
    straight, _ = RunFolder.open(tmp_path / "straight").checkpoints.load(4)
    cut, _ = RunFolder.open(tmp_path / "cut").checkpoints.load(4)
    assert_same(by_name(cut.state), by_name(straight.state))
    assert_same(by_name(cut.optimizer), by_name(straight.optimizer))


def test_a_strategy_whose_state_cannot_be_saved_is_not_resumed(tmp_path: Path) -> None:
    run(config(f"{PARTS}:Forgetful", 2), out=tmp_path / "run")
    before = sorted((path, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file())
    with pytest.raises(
        UsageError, match="cannot be resumed: the state of Forgetful is unknown"
    ) as caught:
        resume(tmp_path / "run", {"rounds": 4})
    assert "define state_dict()" in str(caught.value)
    assert "\n" not in str(caught.value)
    after = sorted((path, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file())
    assert [pair for pair in after if not pair[0].name.startswith(".")] == [
        pair for pair in before if not pair[0].name.startswith(".")
    ]


def test_flowers_clipping_at_the_clients_bounds_how_far_weights_move() -> None:
    """A wrapper from a user's function tells clients the norm; Flower's mod clips; both see weights."""
    how = AggregationOptions(rule=f"{PARTS}:clipping", options={"norm": 1e-3, "clients": 6})
    mods = user_mods(["flwr.clientapp.mod:fixedclipping_mod"], WIDE.local_lr)
    plan = replace(PLAN, rounds=1, aggregation=how)
    snapshot, [record] = run_on_grid(WIDE, plan, mods=dict.fromkeys(range(12), mods))
    assert record.admitted == 6
    norms = [client.norm for client in record.clients]
    # 1e-3 in weights is 1e-3 / local_lr in pseudo-gradients.
    assert norms == pytest.approx([1e-2] * 6, rel=1e-6)
    assert 0 < record.update_norm <= 1e-3 * (1 + 1e-9)
    assert all(np.isfinite(value.numpy()).all() for value in snapshot.state.values())
