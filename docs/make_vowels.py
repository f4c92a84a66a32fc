"""Prints the table of docs/results.md on Japanese vowels: every speaker is held out once for each seed.

    python docs/make_vowels.py tdnn lstm mlp [--arms federated,federated-iid] [--seeds 3] [-s key=value]

A seed deals the nine speakers to three groups. Each group in turn is the test household, and the other
two train, with the settings of simulations/vowels.toml and the values of `GRID` that are best where one
of these two trains and the other is for validation, both ways round. Rows without training are the
nearest support utterance by three distances. Intervals are over all groups, as if they were independent.
"""

import argparse
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from turns import Values, config_of, interval, mean_of, test, train

from fedmeta.experiment import load_config, parse_settings, planning
from fedmeta.federation import Learner
from fedmeta.tasks import stream
from fedmeta.tasks.data.vowels_file import SPEAKERS, read_vowels
from fedmeta.tasks.families.vowels import Vowels, stretch

SHOTS = (1, 5)
GRID: dict[str, list[Any]] = {"server.lr": [0.0003, 0.001], "rounds": [25, 100]}
NETWORKS: dict[str, dict[str, Any]] = {
    "tdnn": {"model": "tdnn"},
    "lstm": {"model": "lstm", "network": {"hidden": 64}},
    "mlp": {"model": "mlp"},
}


@dataclass(frozen=True)
class Turn:
    """A group of speakers that is held out, the groups that train, and the seed."""

    test: list[str]
    others: list[list[str]]
    seed: int

    def settings(self, validation: int | None = None) -> dict[str, Any]:
        """Return the split; `validation` is the place of the group that is held out of the others."""
        split: dict[str, Any] = {"seed": self.seed, "data.test_speakers": self.test}
        if validation is None:
            return split
        held = {"data.validation_speakers": self.others[validation]}
        return {**split, **held, "validation_clients": 1, "cohort": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", help=", ".join(NETWORKS))
    parser.add_argument("--arms", default="federated")
    parser.add_argument("-s", "--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    given = parser.parse_args()
    turns = [turn for seed in range(given.seeds) for turn in turns_of(seed)]
    for name, distances in untrained():
        show(name, [nearest(turn, distances) for turn in turns])
    settings = parse_settings(given.set)
    for model, arm in itertools.product(given.models, filter(None, given.arms.split(","))):
        chosen: Counter[str] = Counter()
        found = [trained(arm, {**settings, **NETWORKS[model]}, turn, chosen) for turn in turns]
        show(f"{model}, {arm}", found)
        print(f"    chosen: {dict(chosen)}", flush=True)


def turns_of(seed: int) -> Iterator[Turn]:
    """Deal the speakers to three groups, and yield each as the one that is held out."""
    order = [str(name) for name in stream(seed, "groups").permutation(SPEAKERS)]
    groups = [sorted(order[place::3]) for place in range(3)]
    for place, group in enumerate(groups):
        yield Turn(group, groups[:place] + groups[place + 1 :], seed)


def trained(arm: str, settings: Mapping[str, Any], turn: Turn, chosen: Counter[str]) -> list[float]:
    """Choose settings without the test speakers, train on both other groups, and test."""
    candidates = [dict(zip(GRID, one, strict=True)) for one in itertools.product(*GRID.values())]
    best = max(candidates, key=lambda own: _validated(arm, settings, turn, own))
    chosen[", ".join(f"{key} {value}" for key, value in best.items())] += 1
    config = config_of("vowels", arm, {**settings, **best, **turn.settings()}, {})
    state = train(config)
    found = []
    for shots in SHOTS:
        asked = config.model_copy(update={"data": {**config.data, "test_shots": shots}})
        (sums,) = test(asked, state, "test").values()
        found.append(mean_of(sums, "accuracy"))
    return found


def _validated(arm: str, settings: Mapping[str, Any], turn: Turn, own: Mapping[str, Any]) -> float:
    accuracies = []
    for place in range(len(turn.others)):
        split = {"clients": 3, **turn.settings(place)}
        config = config_of("vowels", arm, {**settings, **own, **split}, {})
        (sums,) = test(config, train(config), "validation").values()
        accuracies.append(mean_of(sums, "accuracy"))
    return float(np.mean(accuracies))


def untrained() -> Iterator[tuple[str, Values]]:
    """Yield distances ``[640, 640]`` between utterances, with their names."""
    raw = [one.cepstra for one in read_vowels()]
    longest = max(map(len, raw))
    padded = np.stack([np.pad(one, ((0, longest - len(one)), (0, 0))) for one in raw])
    yield "nearest utterance, padded with zeros", _straight(padded)
    yield "nearest utterance, stretched", _straight(np.stack([stretch(one, 16) for one in raw]))
    yield "nearest utterance, dynamic time warping", _warped(padded, np.array([len(one) for one in raw]))


def nearest(turn: Turn, distances: Values) -> list[float]:
    """Return the accuracy of the nearest support utterance, in the test tasks of a turn."""
    found = []
    for shots in SHOTS:
        config = load_config("vowels", {**turn.settings(), "data.test_shots": shots})
        learner = Learner.build(planning.workload(planning.resolve(config)))
        assert isinstance(learner.family, Vowels)
        # The number of an utterance in place of its cepstra.
        learner.family.pool = torch.arange(float(len(distances)))[:, None, None]
        tasks = learner.evaluation_tasks(learner.family.population.clients("test")[0])
        support, query = (x[..., 0, 0].long().numpy() for x in (tasks.support_x, tasks.query_x))
        closest = distances[query[:, :, None], support[:, None]].argmin(2)
        labels = np.take_along_axis(tasks.support_y.numpy(), closest, axis=1)
        found.append(float((labels == tasks.query_y.numpy()).mean()))
    return found


def _straight(series: Values) -> Values:
    flat = torch.from_numpy(series).flatten(1)
    return np.asarray(torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").numpy())


def _warped(padded: Values, lengths: Any) -> Values:
    """Return distances after dynamic time warping (Sakoe, Chiba 1978, symmetric form), by length."""
    everything = np.arange(len(padded))
    return np.stack(
        [_warped_row(padded, place, lengths[place])[everything, lengths] for place in everything]
    ) / (lengths[:, None] + lengths)


def _warped_row(padded: Values, place: int, length: int) -> Values:
    """Return the cost of warping one utterance to the first frames of all, ``[N, frames + 1]``."""
    frames = padded.shape[1]
    cost = np.sqrt(((padded[place, :length, None, None] - padded.transpose(1, 0, 2)) ** 2).sum(-1))
    total = np.full((length + 1, frames + 1, len(padded)), np.inf)
    total[0, 0] = 0.0
    for i, j in itertools.product(range(length), range(frames)):
        sides = np.minimum(total[i, j + 1], total[i + 1, j]) + cost[i, j]
        total[i + 1, j + 1] = np.minimum(total[i, j] + 2 * cost[i, j], sides)
    return total[length].T


def show(name: str, found: list[list[float]]) -> None:
    """Print a row: the mean over the groups for each number of shots."""
    cells = " | ".join(interval(np.array(one), 3) for one in zip(*found, strict=True))
    print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
