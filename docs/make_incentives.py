"""Prints the tables of docs/incentives.md that come from runs of simulations/incentives.toml.

    python docs/make_incentives.py earned --seeds 1 2 3   # by kind of client, under each rule
    python docs/make_incentives.py exact --seeds 1 2 3    # GTG-Shapley against exact Shapley values
    python docs/make_incentives.py servers --seeds 1 2 --rounds 100  # by the server's optimizer

The rules do not touch the training, so that one run is scored by all of them.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from scipy.stats import spearmanr

from fedmeta.config import parts
from fedmeta.experiment import Config, load_config, planning
from fedmeta.federation import Award, Learner, Preview, Rewards, Update
from fedmeta.incentives import (
    ContributionScorer,
    Game,
    Players,
    RewardAccumulator,
    exact_shapley,
    gtg_shapley,
    score,
)
from fedmeta.tasks import stream
from fedmeta.training import simulate

POT = 100_000_000
EIGHT = (0, 1, 8, 10, 12, 15, 16, 18)
"""Two honest clients, and one of each kind but the exact copy, which is never admitted."""

Measure = Callable[[int, Players, Preview], None]
MeasureT = TypeVar("MeasureT", bound=Measure)


@dataclass
class Watcher:
    """A scorer that measures each round and pays nobody."""

    measure: Measure
    wants_vectors: bool = True

    def award(self, round_: int, admitted: Sequence[Update], preview: Preview) -> Mapping[int, Award]:
        self.measure(round_, players_of(admitted), preview)
        return {}


def players_of(admitted: Sequence[Update]) -> Players:
    return Players(
        tuple(update.client for update in admitted),
        tuple(update.tasks for update in admitted),
        np.stack([update.vector for update in admitted]),
    )


def watch(config: Config, build: Callable[[Config, Learner], MeasureT]) -> MeasureT:
    """Run the experiment of `config`, measuring each round by what is built, and return that."""
    workload = planning.workload(config)
    measure = build(config, Learner.build(workload))
    rewards = Rewards(scorer=Watcher(measure))
    simulate(
        workload,
        planning.plan(config),
        observer=lambda *_: None,
        mods=planning.mods(config),
        rewards=rewards,
    )
    return measure


def appraiser(config: Config, learner: Learner, **changes: Any) -> ContributionScorer:
    options = config.incentives.model_copy(update=changes)
    return ContributionScorer(options, learner.algorithm, learner.family, learner.dtype, config.seed)


def load(settings: Mapping[str, Any]) -> Config:
    return planning.resolve(load_config("incentives", settings))


# --- who earned what ---------------------------------------------------------------------------------

COLUMNS: dict[str, dict[str, str]] = {
    "equal": {"rule": "equal"},
    "tasks": {"rule": "tasks"},
    "cosine": {"rule": "cosine"},
    "leave-one-out": {"rule": "leave-one-out"},
    "shapley": {"rule": "shapley"},
    "shapley, each round alone": {"rule": "shapley", "settle": "round"},
    "shapley, the absent excluded": {"rule": "shapley", "absent": "excluded"},
    "the same, each round alone": {"rule": "shapley", "absent": "excluded", "settle": "round"},
}


@dataclass
class Earned:
    """What each client earned in one run, by column."""

    config: Config
    learner: Learner
    columns: Mapping[str, Mapping[str, str]]
    payrolls: dict[str, RewardAccumulator] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, changes in self.columns.items():
            options = self.config.incentives.model_copy(update=dict(changes))
            self.payrolls[name] = RewardAccumulator(options, POT)

    def __call__(self, round_: int, players: Players, preview: Preview) -> None:
        games: dict[str, Game] = {}
        known: dict[tuple[str, str], list[float]] = {}
        for payroll in self.payrolls.values():
            options = payroll.options
            key = (options.absent, options.rule)
            if options.absent not in games:
                of = appraiser(self.config, self.learner, rule="shapley", absent=options.absent)
                games[options.absent] = of.game(round_, players, preview)
            if key not in known:
                rng = stream(self.config.seed, "incentives", "order", round_)
                known[key] = score(options, games[options.absent], rng)
            payroll.reward(dict(zip(players.clients, known[key], strict=True)))


def kinds(config: Config) -> dict[str, list[int]]:
    """Clients by kind; those without a part are honest."""
    found = {
        assignment.head.kind: list(assignment.head.clients) for assignment in parts.assignments(config)
    }
    cast = {client for clients in found.values() for client in clients}
    return {"honest": [c for c in range(config.cohort) if c not in cast], **found}


def ratios(config: Config, columns: Mapping[str, Mapping[str, str]]) -> dict[str, dict[int, float]]:
    """What each client earned, in means of the honest ones, by column."""
    payrolls = watch(config, lambda config, learner: Earned(config, learner, columns)).payrolls
    honest = kinds(config)["honest"]
    result = {}
    for name, payroll in payrolls.items():
        mean = np.mean([payroll.rewards.get(client, 0) for client in honest])
        result[name] = {c: float(payroll.rewards.get(c, 0) / mean) for c in range(config.cohort)}
    return result


def print_ratios(runs: Sequence[dict[str, dict[int, float]]], of: dict[str, list[int]]) -> None:
    """Rows are kinds; a cell is the mean over clients and seeds, and the most that one earned."""
    columns = list(runs[0])
    print("| | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for kind, clients in of.items():
        cells = []
        for column in columns:
            values = [run[column][client] for run in runs for client in clients]
            cells.append(f"{np.mean(values):.1%} ({max(values):.1%})")
        print(f"| {kind} | " + " | ".join(cells) + " |", flush=True)


def earned(runs: Sequence[Mapping[str, Any]]) -> None:
    print_ratios([ratios(load(run), COLUMNS) for run in runs], kinds(load(runs[0])))


SERVERS: dict[str, dict[str, Any]] = {
    "SGD, lr 0.5": {},
    "SGD, lr 0.05, momentum 0.9": {"server.lr": 0.05, "server.options": {"momentum": 0.9}},
    "SGD, lr 0.5, clip_norm 0.05": {"server.clip_norm": 0.05},
    "Adam, lr 0.001": {"server.optimizer": "Adam", "server.lr": 0.001},
}


def servers(runs: Sequence[Mapping[str, Any]]) -> None:
    columns = {name: COLUMNS[name] for name in ("shapley", "shapley, the absent excluded")}
    for name, settings in SERVERS.items():
        print(f"\n{name}\n")
        configs = [load({**run, **settings}) for run in runs]
        print_ratios([ratios(config, columns) for config in configs], kinds(configs[0]))


# --- GTG-Shapley against exact values ----------------------------------------------------------------


@dataclass
class Compared:
    """Exact and estimated values of eight of the clients in every tenth round, for each `absent`."""

    config: Config
    learner: Learner
    values: dict[str, list[tuple[list[float], list[float]]]] = field(default_factory=dict)
    measured: dict[str, list[int]] = field(default_factory=dict)

    def __call__(self, round_: int, players: Players, preview: Preview) -> None:
        if round_ % 10:
            return
        rows = [row for row, client in enumerate(players.clients) if client in EIGHT]
        clients, tasks = (tuple(of[row] for row in rows) for of in (players.clients, players.tasks))
        eight = Players(clients, tasks, players.updates[rows])
        for absent in ("zero", "excluded"):
            game = appraiser(self.config, self.learner, absent=absent).game(round_, eight, preview)
            exact = exact_shapley(game)
            again = Game(eight, game.values)
            rng = stream(self.config.seed, "incentives", "order", round_)
            estimated = gtg_shapley(again, self.config.incentives.shapley, rng)
            self.values.setdefault(absent, []).append((exact, estimated))
            self.measured.setdefault(absent, []).append(again.measured)


def exact(runs: Sequence[Mapping[str, Any]]) -> None:
    print("| seed | `absent` | all rounds' values | median round | worst round | coalitions of 256 |")
    print("|---|---|---|---|---|---|")
    for run in runs:
        found = watch(load(run), Compared)
        for absent, pairs in found.values.items():
            rounds = [spearmanr(exact, estimated)[0] for exact, estimated in pairs]
            pooled = spearmanr(*(np.concatenate(side) for side in zip(*pairs, strict=True)))[0]
            print(
                f"| {run['seed']} | `{absent}` | {pooled:.3f} | {np.median(rounds):.3f} "
                f"| {min(rounds):.3f} | {np.mean(found.measured[absent]):.0f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("table", choices=("earned", "exact", "servers"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rounds", type=int)
    given = parser.parse_args()
    rounds = {"rounds": given.rounds} if given.rounds else {}
    tables = {"earned": earned, "exact": exact, "servers": servers}
    tables[given.table]([{"seed": seed, **rounds} for seed in given.seeds])


if __name__ == "__main__":
    main()
