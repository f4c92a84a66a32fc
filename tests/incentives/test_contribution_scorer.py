"""The value of a coalition: the server's own step and loss, recomputed by other means."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmeta.federation import ServerOptions
from fedmeta.federation.evaluation import evaluate_tasks
from fedmeta.incentives import (
    HeldOutUtility,
    IncentiveOptions,
    Players,
    ShapleyOptions,
    exact_shapley,
    held_out_tasks,
    score,
)
from fedmeta.learning import Tensors
from fedmeta.tasks import Population
from tests.incentives.rounds import DIGITS, SGD, Federation, players_of

RNG = np.random.default_rng(0)
SHAPLEY = IncentiveOptions(rule="shapley", tasks=10, steps=2)


@pytest.fixture(scope="module")
def federation() -> Federation:
    return Federation.start()


@pytest.fixture(scope="module")
def players(federation: Federation) -> Players:
    return players_of(federation.train(1, range(5)), [3, 1, 3, 2, 3])


def loss_of(federation: Federation, state: Tensors, steps: int = 2) -> float:
    """The loss that the evaluation of held-out clients measures, on the round's tasks."""
    tasks = held_out_tasks(federation.learner.family, 10, DIGITS.seed, 1)
    sums = evaluate_tasks(federation.learner.algorithm, state, tasks, [steps])
    return sums.sums["loss"][0] / 10


def stepped(federation: Federation, mean: np.ndarray[Any, Any]) -> Tensors:
    """The state after SGD at 0.5, by hand."""
    move = federation.codec.split(mean)
    return {key: value - 0.5 * move[key] for key, value in federation.server.state.items()}


@pytest.mark.parametrize("coalition", [(), (2,), (0, 3), (0, 1, 2, 3, 4)])
def test_the_absent_count_as_zeros(
    coalition: tuple[int, ...], federation: Federation, players: Players
) -> None:
    weights = np.array([3, 1, 3, 2, 3]) / 12
    mean = sum((weights[i] * players.updates[i] for i in coalition), np.zeros(players.updates.shape[1]))
    worth = federation.game(1, players, SHAPLEY).value(coalition)
    assert worth == pytest.approx(-loss_of(federation, stepped(federation, mean)), abs=1e-5)


@pytest.mark.parametrize("coalition", [(), (2,), (0, 3), (0, 1, 2, 3, 4)])
def test_or_the_absent_are_excluded_and_weights_scaled_up(
    coalition: tuple[int, ...], federation: Federation, players: Players
) -> None:
    tasks = np.array([3, 1, 3, 2, 3])
    mean = np.zeros(players.updates.shape[1])
    if coalition:
        mean = np.average(players.updates[list(coalition)], axis=0, weights=tasks[list(coalition)])
    game = federation.game(1, players, SHAPLEY.model_copy(update={"absent": "excluded"}))
    assert game.value(coalition) == pytest.approx(
        -loss_of(federation, stepped(federation, mean)), abs=1e-5
    )


def test_all_clients_together_are_worth_the_servers_actual_step() -> None:
    federation = Federation.start()
    sent = players_of(federation.train(1, range(6)))
    worth = federation.game(1, sent, SHAPLEY).value(range(6))
    before = federation.server.state
    assert all(torch.equal(before[key], value) for key, value in federation.server.state.items())
    federation.step(1, sent)
    assert worth == pytest.approx(-loss_of(federation, federation.server.state), abs=1e-5)


def test_a_coalition_is_worth_the_same_alone_and_in_a_stack(
    federation: Federation, players: Players
) -> None:
    some = [(0,), (1, 2), (3, 4), (0, 1, 2, 3, 4), (2,), (), (0, 4), (1, 3), (2, 3)]
    stacked = federation.game(1, players, SHAPLEY).values(some)
    alone = [federation.game(1, players, SHAPLEY).value(coalition) for coalition in some]
    assert stacked == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize(
    "server",
    [
        SGD,
        ServerOptions(optimizer="SGD", lr=0.1, options={"momentum": 0.9}),
        ServerOptions(optimizer="Adam", lr=0.01),
        ServerOptions(optimizer="AdamW", lr=0.01, options={"weight_decay": 0.1}),
    ],
    ids=["SGD", "momentum", "Adam", "AdamW"],
)
def test_zeros_are_worth_nothing_whatever_the_server_does_by_itself(server: ServerOptions) -> None:
    federation = Federation.start(options=server)
    for round_ in (1, 2, 3):
        sent = federation.train(round_, range(5))
        sent[1] = 0.0
        players = players_of(sent)
        values = exact_shapley(federation.game(round_, players, SHAPLEY))
        assert values[1] == 0.0
        assert all(values[i] != 0.0 for i in (0, 2, 3, 4))
        federation.step(round_, players)


@pytest.mark.parametrize("rule", ["leave-one-out", "shapley"])
def test_with_the_absent_excluded_zeros_are_absent(rule: str) -> None:
    federation = Federation.start()
    sent = federation.train(1, range(4))
    options = SHAPLEY.model_copy(update={"absent": "excluded", "rule": rule})
    with_zeros = np.insert(sent, 1, 0.0, axis=0)
    found = score(options, federation.game(1, players_of(with_zeros), options), RNG)
    assert found[1] == 0.0
    without = score(options, federation.game(1, players_of(sent), options), RNG)
    assert [found[0], *found[2:]] == pytest.approx(without, abs=1e-6)


SERVERS = [
    SGD,
    ServerOptions(optimizer="SGD", lr=0.1, options={"momentum": 0.9}),
    ServerOptions(optimizer="Adam", lr=0.01),
    ServerOptions(optimizer="AdamW", lr=0.01, options={"weight_decay": 0.1}),
]


@cache
def trained(server: int) -> tuple[Federation, np.ndarray[Any, Any]]:
    """A federation after a round, and what six clients send in the next one; not to be changed."""
    federation = Federation.start(options=SERVERS[server])
    federation.step(1, players_of(federation.train(1, range(6))))
    return federation, federation.train(2, range(6))


@given(
    server=st.integers(0, 3),
    rule=st.sampled_from(["equal", "tasks", "leave-one-out", "shapley", "cosine"]),
    absent=st.sampled_from(["zero", "excluded"]),
    tasks=st.integers(1, 9),
    exact=st.sampled_from([0, 6]),
    idle=st.sets(st.integers(0, 5)),
)
@settings(max_examples=20, deadline=None)
def test_a_client_that_sends_zeros_scores_nothing(server: int, idle: set[int], **options: Any) -> None:
    federation, updates = trained(server)
    options["shapley"] = ShapleyOptions(exact=options.pop("exact"), permutations=6)
    chosen = IncentiveOptions(**options)
    sent = updates.copy()
    sent[list(idle)] = 0.0
    found = score(chosen, federation.game(2, players_of(sent), chosen), RNG)
    assert [found[player] for player in idle] == [0.0] * len(idle)
    assert idle or any(found)


@pytest.mark.parametrize("server", [0, 1], ids=["SGD", "momentum"])
@pytest.mark.parametrize("rule", ["leave-one-out", "shapley"])
@pytest.mark.parametrize("tasks", [1, 12])
def test_updates_below_the_rounding_of_the_weights_score_nothing(
    server: int, rule: str, tasks: int
) -> None:
    federation, updates = trained(server)
    sent = 1e-10 * np.random.default_rng(tasks).normal(size=updates.shape)
    options = IncentiveOptions(rule=rule, tasks=tasks, shapley=ShapleyOptions(permutations=6))
    assert score(options, federation.game(2, players_of(sent), options), RNG) == [0.0] * 6


@pytest.mark.parametrize("rule", ["leave-one-out", "shapley"])
def test_equal_updates_are_worth_exactly_the_same(rule: str) -> None:
    federation, updates = trained(1)
    sent = updates[[0, 1, 0, 2, 1, 0]]
    options = IncentiveOptions(rule=rule, tasks=7, shapley=ShapleyOptions(exact=6))
    found = score(options, federation.game(2, players_of(sent), options), RNG)
    assert found[0] == found[2] == found[5] != found[3]
    assert found[1] == found[4]


def test_a_ruined_model_has_the_worst_loss_and_no_other_value() -> None:
    federation = Federation.start()
    sent = federation.train(1, range(4))
    sent[2] = 1e30
    players = players_of(sent)
    utility = HeldOutUtility(
        federation.learner.algorithm,
        held_out_tasks(federation.learner.family, 4, 1, 1),
        federation.preview(1),
        players,
        SHAPLEY,
    )
    values = utility([(0,), (2,), (0, 2)])
    assert np.isfinite(values).all()
    assert values[0] > -100
    assert values[1] == values[2] == -1e6


def test_held_out_tasks_are_the_validation_clients_and_new_in_every_round(
    federation: Federation,
) -> None:
    family = federation.learner.family
    first, again, second = (held_out_tasks(family, 10, 1, round_) for round_ in (1, 1, 2))
    assert len(first) == 10
    assert torch.equal(first.support_x, again.support_x)
    assert not torch.equal(first.support_x, second.support_x)
    assert not torch.equal(first.support_x, held_out_tasks(family, 10, 2, 1).support_x)


class Recording:
    """A family that records the number of tasks drawn per client."""

    def __init__(self, population: Population) -> None:
        self.population = population
        self.asked: list[tuple[int, int]] = []
        self.family = Federation.start(population=population).learner.family

    def sample(self, client: int, count: int, rng: np.random.Generator) -> Any:
        self.asked.append((client, count))
        return self.family.sample(client, count, rng)


@pytest.mark.parametrize(
    ("count", "asked"),
    [(10, [(8, 3), (9, 3), (10, 2), (11, 2)]), (4, [(8, 1), (9, 1), (10, 1), (11, 1)]), (1, [(8, 1)])],
)
def test_validation_clients_share_the_held_out_tasks_evenly(
    count: int, asked: list[tuple[int, int]]
) -> None:
    family = Recording(Population(8, 4, 1))
    assert len(held_out_tasks(family, count, 1, 1)) == count  # type: ignore[arg-type]
    assert family.asked == asked


def test_scores_are_alike_in_double_precision() -> None:
    values = []
    for dtype in ("float32", "float64"):
        federation = Federation.start(replace(DIGITS, dtype=dtype))  # type: ignore[arg-type]
        sent = players_of(federation.train(1, range(5)))
        values.append(score(SHAPLEY, federation.game(1, sent, SHAPLEY), np.random.default_rng(0)))
    # A loss near 1.5 has seven digits in float32, and values are differences of such.
    assert values[0] == pytest.approx(values[1], abs=3e-6)
    assert max(map(abs, values[0])) > 1e-4
