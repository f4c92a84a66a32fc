"""Earnings in real runs: free-riders and poisoners earn next to nothing."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

import fedmeta
from fedmeta.experiment import RunFolder, load_config
from fedmeta.experiment.client_totals import ClientTotals, participants
from fedmeta.incentives import (
    Game,
    IncentiveOptions,
    Players,
    ShapleyOptions,
    exact_shapley,
    gtg_shapley,
)
from fedmeta.tasks import Population
from tests.incentives.rounds import Federation, Vectors, players_of

OPTIONS = IncentiveOptions(rule="shapley", tasks=16)


def mixed_updates(federation: Federation, round_: int, rng: np.random.Generator) -> Vectors:
    """Eight clients: five honest, one of zeros, one of noise, one that poisons."""
    sent = federation.train(round_, range(8))
    noise = rng.standard_normal(sent.shape[1])
    sent[5] = 0.0
    sent[6] = noise * np.linalg.norm(sent[6]) / np.linalg.norm(noise)
    sent[7] *= -2.0
    return sent


@pytest.mark.parametrize("absent", ["zero", pytest.param("excluded", marks=pytest.mark.slow)])
def test_estimated_values_of_eight_clients_rank_as_exact_ones(absent: str) -> None:
    federation, rng = Federation.start(), np.random.default_rng(0)
    options = OPTIONS.model_copy(update={"absent": absent})
    pairs = []
    for round_ in range(1, 25):
        sent = players_of(mixed_updates(federation, round_, rng))
        if round_ % 3 == 0:
            game = federation.game(round_, sent, options)
            exact = exact_shapley(game)
            again = Game(sent, game.values)
            pairs.append((exact, gtg_shapley(again, ShapleyOptions(permutations=40), rng)))
            assert again.measured < 256
        federation.step(round_, sent)
    by_round = [spearmanr(exact, estimated)[0] for exact, estimated in pairs]
    all_rounds = spearmanr(*(np.concatenate(side) for side in zip(*pairs, strict=True)))[0]
    assert all_rounds > 0.9
    assert np.median(by_round) > 0.9


def earnings(folder: Path, settings: dict[str, int]) -> dict[int, ClientTotals]:
    fedmeta.run("incentives", settings, out=folder)
    return {one.client: one for one in participants(RunFolder.open(folder).clients())}


def clients_of(kind: str) -> list[int]:
    tables = load_config("incentives").behaviours
    return [client for table in tables if table["kind"] == kind for client in table["clients"]]


def assert_cheats_earn_little(earned: dict[int, ClientTotals], rounds: int) -> None:
    cast = {client for table in load_config("incentives").behaviours for client in table["clients"]}
    honest = np.mean([one.earned for client, one in earned.items() if client not in cast])
    for kind in ("zero-update", "noise", "poison"):
        for client in clients_of(kind):
            assert earned[client].admitted == rounds
            assert earned[client].earned <= 0.1 * honest, (kind, client)
    for client in clients_of("copy"):
        assert (earned[client].admitted, earned[client].earned) == (0, 0)
        assert earned[client].refused == "the same update as client 0's"
    for client in clients_of("little-data"):
        assert 0 < earned[client].earned < 0.8 * honest
    # Nothing stops a disguised copy: it earns much of what its victim does, and the page says so.
    for client in clients_of("disguised-copy"):
        assert earned[client].earned > 0.3 * honest
    assert sum(one.earned for one in earned.values()) == rounds * 100 * 10**6


def test_misbehaving_clients_earn_at_most_a_tenth_of_an_honest_one(tmp_path: Path) -> None:
    earned = earnings(
        tmp_path / "run", {"rounds": 14, "seed": 21, "incentives.shapley.permutations": 12}
    )
    assert_cheats_earn_little(earned, rounds=14)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 22])
def test_misbehaving_clients_earn_at_most_a_tenth_in_the_whole_simulation(
    seed: int, tmp_path: Path
) -> None:
    earned = earnings(tmp_path / "run", {"seed": seed})
    assert_cheats_earn_little(earned, rounds=200)


@pytest.fixture(scope="module")
def rises() -> dict[str, float]:
    """By how much client 0's worth over some rounds rises, by trick."""
    federation = Federation.start(population=Population(8, 4, 1), tasks_per_client=1)
    worth: dict[str, float] = defaultdict(float)
    for round_ in range(1, 6):
        played = tricks(federation, round_)
        for trick, (players, names) in played.items():
            values = exact_shapley(federation.game(round_, players, OPTIONS))
            worth[trick] += sum(values[:names])
        federation.step(round_, played["none"][0])
    return {trick: worth[trick] / worth["none"] - 1 for trick in worth}


def tricks(federation: Federation, round_: int) -> dict[str, tuple[Players, int]]:
    """Five clients with three tasks each; the first has one identity or three, and they come first."""
    # Three tasks of a client are what it draws in three rounds, from one and the same state.
    draws = np.stack([federation.train(3 * round_ + draw, range(5)) for draw in range(3)])
    mine, others = draws[:, 0], draws.mean(0)[1:]
    again = [federation.train(1000 + 6 * round_ + draw, [0])[0] for draw in range(6)]
    names = [mine.mean(0), np.mean(again[:3], axis=0), np.mean(again[3:], axis=0)]
    return {
        "none": (players_of(draws.mean(0), [3] * 5), 1),
        "shares its work": (players_of(np.concatenate([mine, others]), [1] * 3 + [3] * 4), 3),
        "triples its work": (players_of(np.concatenate([names, others]), [3] * 7), 3),
    }


def test_splitting_work_over_three_identities_does_not_pay(rises: dict[str, float]) -> None:
    assert rises["shares its work"] <= 0.05


def test_working_under_three_identities_pays_by_the_work(rises: dict[str, float]) -> None:
    # Three names with three tasks each weigh 9 of 21 tasks instead of 3 of 15: 2.14 times as much.
    assert rises["triples its work"] == pytest.approx(2.14 - 1, abs=0.5)
