"""Prints the tables of docs/incentives.md on what one participant gains by tricks that are hard to see.

    python docs/make_split.py --seeds 1 2 3 --rounds 40

All clients of simulations/incentives.toml are honest here, with three tasks each. In every round, from
the same state and with the same updates of the others, one participant after the other is scored as
itself and under each trick. The training itself goes on without any trick.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from fedmeta.experiment import load_config, planning
from fedmeta.federation import Learner, ServerOptimizer
from fedmeta.federation.codec import Codec
from fedmeta.incentives import ContributionScorer, Players, Preview, RewardAccumulator
from fedmeta.learning import Tensors, expand_state
from fedmeta.tasks import TaskBatch, stream

POT = 100_000_000
TASKS = 3
NAMES = 3
PARTICIPANTS = (0, 10)
Vectors = NDArray[np.float64]

COLUMNS = {
    "equal": {"rule": "equal"},
    "tasks": {"rule": "tasks"},
    "cosine": {"rule": "cosine"},
    "leave-one-out": {"rule": "leave-one-out"},
    "shapley": {"rule": "shapley"},
    "shapley, the absent excluded": {"rule": "shapley", "absent": "excluded"},
}
TRICKS = {
    "shares its work": "three identities do one of the three tasks each",
    "triples its work": "three identities do three tasks each, on the same data",
    "exaggerates": "one identity sends its update three times as long",
}


@dataclass(frozen=True)
class Round:
    """One round's real updates.

    Attributes:
        whole: Every client's update, ``[N, D]``.
        each: Every client's pseudo-gradient of each of its tasks, ``[N, 3, D]``.
        more: Further updates on each participant's data, under two other identities, ``[2, D]``.
    """

    number: int
    whole: Vectors
    each: Vectors
    more: Mapping[int, Vectors]

    def players(self, participant: int, trick: str | None) -> Players:
        """The round as the server sees it; the participant's identities come first."""
        count = len(self.whole)
        others = [client for client in range(count) if client != participant]
        mine, tasks = self.whole[[participant]], [TASKS]
        if trick == "shares its work":
            mine, tasks = self.each[participant], [1] * NAMES
        elif trick == "triples its work":
            mine, tasks = np.concatenate([mine, self.more[participant]]), [TASKS] * NAMES
        elif trick == "exaggerates":
            mine = 3.0 * mine
        clients = tuple(range(-len(mine), 0)) + tuple(others)
        return Players(
            clients,
            (*tasks, *[TASKS] * len(others)),
            np.concatenate([mine, self.whole[others]]),
        )


def flat(updates: Tensors) -> Vectors:
    """``[T, ...]`` by key as ``[T, D]``."""
    return torch.cat([value.flatten(1) for value in updates.values()], 1).double().numpy()


def draw(learner: Learner, state: Tensors, number: int, clients: int) -> Round:
    """Let all clients train honestly, and the participants under two other identities as well."""
    seed = learner.workload.seed

    def per_task(tasks: TaskBatch) -> Vectors:
        return flat(learner.algorithm.task_updates(expand_state(state, len(tasks)), tasks)[0])

    each = np.stack([per_task(learner.sample(number, client)) for client in range(clients)])
    more = {
        one: np.stack(
            [
                per_task(learner.family.sample(one, TASKS, stream(seed, "name", number, one, k))).mean(0)
                for k in range(1, NAMES)
            ]
        )
        for one in PARTICIPANTS
    }
    return Round(number, each.mean(1), each, more)


def preview_of(server: ServerOptimizer, codec: Codec, number: int, vector: Vectors) -> Tensors:
    return server.preview(number, codec.split(vector))


Cell = tuple[str, int, str | None]
"""A column, a participant, and its trick."""


def play(seed: int, rounds: int) -> dict[Cell, float]:
    """What each participant earned in all, in shares of all pots, by column and trick."""
    settings = {"seed": seed, "behaviours": [], "tasks_per_client": TASKS, "rounds": rounds}
    config = planning.resolve(load_config("incentives", settings))
    learner = planning.check(config)
    codec = Codec(learner.template)
    server = ServerOptimizer(config.server, learner.init_state(), config.rounds)
    payrolls: dict[Cell, RewardAccumulator] = {}
    for number in range(1, config.rounds + 1):
        drawn = draw(learner, server.state, number, config.cohort)
        preview: Preview = partial(preview_of, server, codec, number)
        for column, changes in COLUMNS.items():
            options = config.incentives.model_copy(update=changes)
            judge = ContributionScorer(options, learner.algorithm, learner.family, learner.dtype, seed)
            for participant in PARTICIPANTS:
                for trick in (None, *TRICKS):
                    players = drawn.players(participant, trick)
                    scores = judge.scores(number, players, preview)
                    payroll = payrolls.setdefault(
                        (column, participant, trick), RewardAccumulator(options, POT)
                    )
                    payroll.reward(dict(zip(players.clients, scores, strict=True)))
        server.step(number, codec.split(drawn.whole.mean(0)))
    return {
        cell: sum(units for client, units in payroll.rewards.items() if client < 0)
        / (POT * config.rounds)
        for cell, payroll in payrolls.items()
    }


def rise(run: Mapping[Cell, float], column: str, trick: str) -> float:
    """By how much the trick raised what the participants of a run earned, on average."""
    tricked, honest = (sum(run[column, one, how] for one in PARTICIPANTS) for how in (trick, None))
    return tricked / honest - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rounds", type=int, default=40)
    given = parser.parse_args()
    runs = [play(seed, given.rounds) for seed in given.seeds]
    print("| | " + " | ".join(COLUMNS) + " |\n" + "|---" * (len(COLUMNS) + 1) + "|")
    for trick, what in TRICKS.items():
        cells = []
        for column in COLUMNS:
            found = [rise(run, column, trick) for run in runs]
            cells.append(f"{np.mean(found):+.1%} ({min(found):+.1%} to {max(found):+.1%})")
        print(f"| {trick}: {what} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
