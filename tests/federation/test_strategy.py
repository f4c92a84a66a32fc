"""The server's round: the cohort, aggregation, and the record."""

import math
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message

from fedmeta.errors import ConfigError, RunError
from fedmeta.federation import Learner, MetaStrategy, Plan, ServerOptions, VectorGrid
from fedmeta.federation.aggregation.mean import Mean
from fedmeta.federation.cohort import by_client, sample_cohort, wait_for_nodes
from fedmeta.federation.engines.vector.jobs import InProcess
from fedmeta.federation.flower import as_server, quiet
from fedmeta.learning.device import one_thread
from fedmeta.tasks import Population
from fedmeta.training import simulate
from tests.federation.engines.vector.test_stacked import CONV
from tests.federation.helpers import PLAN, SINUSOID, assert_same, run_on_grid


def test_a_cohort_is_drawn_without_replacement_in_rising_order() -> None:
    for round_ in range(50):
        cohort = sample_cohort(1, round_, 20, 8)
        assert cohort == sorted(set(cohort))
        assert len(cohort) == 8
        assert set(cohort) <= set(range(20))


def test_every_client_is_as_likely() -> None:
    """Chi-square over 10 clients, 2,000 rounds of 3: the 0.999 quantile with 9 degrees is 27.9."""
    counts = Counter(client for round_ in range(2000) for client in sample_cohort(3, round_, 10, 3))
    expected = 2000 * 3 / 10
    assert sum((counts[client] - expected) ** 2 / expected for client in range(10)) < 27.9


def test_a_cohort_depends_on_seed_and_round_and_nothing_else() -> None:
    random.seed(1)
    first = sample_cohort(5, 9, 1000, 20)
    random.seed(2)
    assert sample_cohort(5, 9, 1000, 20) == first
    assert sample_cohort(5, 10, 1000, 20) != first
    assert sample_cohort(6, 9, 1000, 20) != first


def test_the_whole_population_can_be_the_cohort() -> None:
    assert sample_cohort(0, 1, 7, 7) == list(range(7))


def test_held_out_clients_are_never_trained_on() -> None:
    _, records = run_on_grid(SINUSOID, replace(PLAN, rounds=20))
    assert {c.client for record in records for c in record.clients} == set(range(12))


def test_a_round_steps_along_the_mean_of_its_clients_updates() -> None:
    """By hand: SGD at lr 0.5 on the average of what each client computes alone."""
    plan = Plan(rounds=1, cohort=12, server=ServerOptions(optimizer="SGD", lr=0.5))
    after, [record] = run_on_grid(replace(SINUSOID, dtype="float64"), plan)
    learner = Learner.build(replace(SINUSOID, dtype="float64"))
    start = learner.init_state()
    alone = [learner.train(start, 1, [client]) for client in range(12)]
    mean = {key: sum(update.updates[key][0] for update in alone) / 12 for key in start}
    for key, value in start.items():
        torch.testing.assert_close(after.state[key], value - 0.5 * mean[key], rtol=1e-11, atol=1e-12)
    norm = math.sqrt(sum(float(value.square().sum()) for value in mean.values()))  # type: ignore[union-attr]
    assert record.update_norm == pytest.approx(norm, rel=1e-10)
    assert record.loss == pytest.approx(np.mean([float(u.metrics["loss"][0]) for u in alone]), rel=1e-10)
    assert record.clients[5].loss == pytest.approx(float(alone[5].metrics["loss"][0]), rel=1e-10)
    assert (record.tasks, record.lr, record.accuracy) == (12, 0.5, None)


def test_flowers_own_loop_trains_to_the_same_bits() -> None:
    end, _ = run_on_grid(SINUSOID, PLAN)
    with one_thread(), as_server(), quiet():
        learner = Learner.build(SINUSOID)
        strategy = MetaStrategy(learner, PLAN)
        grid = VectorGrid(learner, InProcess(learner))
        strategy.start(grid, strategy.arrays, num_rounds=PLAN.rounds, timeout=PLAN.timeout)
    assert_same(strategy.state, end.state)
    assert_same(strategy.export(), end.optimizer)


def test_classification_reports_accuracy_before_and_after() -> None:
    _, [record] = run_on_grid(CONV, Plan(rounds=1, cohort=6))
    assert record.accuracy is not None
    assert record.accuracy_before is not None
    assert all(0.0 <= float(client.accuracy or 0.0) <= 1.0 for client in record.clients)


def test_bytes_are_those_of_the_arrays_in_both_directions() -> None:
    _, [record] = run_on_grid(SINUSOID, Plan(rounds=1, cohort=5))
    shapes = [value.shape for value in Learner.build(SINUSOID).init_state().values()]
    each = sum(128 + 4 * math.prod(shape) for shape in shapes)
    assert record.bytes_down == record.bytes_up == 5 * each


def test_replies_in_any_order_give_the_same_bits() -> None:
    straight, records = run_on_grid(SINUSOID, PLAN)
    shuffler = random.Random(0)

    def shuffled(replies: list[Message]) -> list[Message]:
        return shuffler.sample(replies, len(replies))

    mixed, others = run_on_grid(SINUSOID, PLAN, change=shuffled)
    assert_same(mixed.state, straight.state)
    assert others == records


def test_a_reply_that_arrives_twice_does_not_count_at_all() -> None:
    doubled, records = run_on_grid(SINUSOID, PLAN, change=lambda replies: [*replies, replies[0]])
    dropped, _ = run_on_grid(SINUSOID, PLAN, change=lambda replies: replies[1:])
    assert_same(doubled.state, dropped.state)
    assert [r.clients[0].reason for r in records] == ["2 replies in one round, none counts"] * 4


def test_validation_clients_are_evaluated_when_it_is_due() -> None:
    _, records = run_on_grid(SINUSOID, replace(PLAN, rounds=5, evaluate_every=2))
    assert [record.round for record in records if record.evaluation] == [2, 4]
    results = records[1].evaluation or ()
    assert [result.step for result in results] == [0, 1, 3]
    assert {result.tasks for result in results} == {2 * 6}


def test_the_learning_rate_of_each_round_is_recorded() -> None:
    plan = Plan(rounds=4, cohort=2, server=ServerOptions(optimizer="SGD", lr=0.4, schedule="linear"))
    _, records = run_on_grid(SINUSOID, plan)
    assert [record.lr for record in records] == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_a_snapshot_is_not_changed_by_later_rounds() -> None:
    kept = []
    simulate(SINUSOID, PLAN, observer=lambda record, snapshot: kept.append(snapshot))
    first = {key: value.clone() for key, value in kept[0].state.items()}
    assert_same(kept[0].state, first)
    assert not torch.equal(kept[0].state[next(iter(first))], kept[1].state[next(iter(first))])


def test_a_cohort_larger_than_the_population_is_refused() -> None:
    with pytest.raises(ConfigError, match="cohort = 13 is larger than the population of 12"):
        simulate(SINUSOID, replace(PLAN, cohort=13), observer=lambda *_: None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cohort": 0}, "cohort = 0"),
        ({"quorum": 7}, "quorum = 7 is not within 0 and cohort = 6"),
        ({"timeout": 0.0}, "timeout = 0.0"),
    ],
)
def test_an_impossible_plan_is_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(PLAN, **values)  # type: ignore[arg-type]


class Late(VectorGrid):
    """A grid whose nodes register one by one."""

    registered = 0

    def get_node_ids(self) -> list[int]:
        self.registered += 1
        return list(range(2, 2 + min(self.registered, 3)))


def test_nodes_that_register_late_are_waited_for() -> None:
    learner = Learner.build(replace(SINUSOID, population=Population(3)))
    grid = Late(learner, InProcess(learner))
    assert wait_for_nodes(grid, 3, timeout=60.0) is grid
    assert grid.registered == 3


def test_nodes_are_not_awaited_forever() -> None:
    learner = Learner.build(SINUSOID)
    with pytest.raises(RunError, match=r"only 3 of 17 nodes registered within 0\.2 s"):
        wait_for_nodes(Late(learner, InProcess(learner)), 17, timeout=0.2)


class Backwards(VectorGrid):
    """A grid that streams its replies in the wrong order."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return iter(list(super().send_and_receive(messages, timeout=timeout))[::-1])


def test_a_stream_out_of_order_is_an_error_and_not_another_sum() -> None:
    with as_server():
        learner = Learner.build(SINUSOID)
        grid = Backwards(learner, InProcess(learner))
        strategy = MetaStrategy(learner, PLAN)
        strategy.connect(grid)
        asked = strategy.configure_train(1, strategy.arrays, ConfigRecord(), grid)
        with pytest.raises(RunError, match="out of order"):
            list(by_client(grid.send_and_receive(asked), grid))


def test_a_large_population_costs_nothing_to_register() -> None:
    workload = replace(SINUSOID, population=Population(100_000))
    learner = Learner.build(workload)
    grid = VectorGrid(learner, InProcess(learner))
    assert grid.get_node_ids() == range(2, 100_002)
    records = []
    simulate(workload, Plan(rounds=1, cohort=200), observer=lambda record, _: records.append(record))
    assert records[0].admitted == 200
    assert max(client.client for client in records[0].clients) > 50_000


def test_the_aggregate_of_a_round_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[Mean] = []
    result = Mean.result

    def counted(mean: Mean) -> np.ndarray:
        rounds.append(mean)
        return result(mean)

    monkeypatch.setattr(Mean, "result", counted)
    run_on_grid(SINUSOID, PLAN)
    assert len(rounds) == PLAN.rounds
