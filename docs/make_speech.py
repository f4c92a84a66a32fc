"""Prints the tables of docs/results.md on spoken digits: every speaker is held out once.

    python docs/make_speech.py federated nearest [--seeds 3] [-s key=value ...]

The other five train, with the settings of simulations/speech.toml. A speaker's values are means over
the seeds; intervals are over the six speakers. `classifier` is supervised training on the words, tested
without adaptation; `nearest` is the nearest support spectrogram, `warped` the nearest one after dynamic
time warping.
"""

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from turns import Values, config_of, interval, mean_of, test, train

from fedmeta.experiment import load_config, parse_settings, planning
from fedmeta.federation import Learner
from fedmeta.tasks import TaskBatch

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
SHOTS = (1, 5)
ARMS = ("federated", "centralized", "local", "fedavg")
CLASSIFIER = {
    "algorithm": "fedavg",
    "training": "centralized",
    "data.labels": "global",
    "data.test_labels": "global",
}
Found = dict[int, float]
"""Accuracy by number of shots."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("methods", nargs="+", choices=[*ARMS, "classifier", "nearest", "warped"])
    parser.add_argument("-s", "--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    given = parser.parse_args()
    settings = parse_settings(given.set)
    print("| method | shots | mean over speakers | " + " | ".join(SPEAKERS) + " |")
    print("|---" * (len(SPEAKERS) + 3) + "|")
    for method in given.methods:
        found = [_of_speaker(method, speaker, settings, given.seeds) for speaker in SPEAKERS]
        for shots in SHOTS:
            values = np.array([one[shots] for one in found])
            cells = " | ".join(f"{value:.3f}" for value in values)
            print(f"| {method} | {shots} | {interval(values, 3)} | {cells} |", flush=True)


def _of_speaker(method: str, speaker: str, settings: Mapping[str, Any], seeds: int) -> Found:
    held_out = {**settings, "data.test_speakers": [speaker]}
    if method in ("nearest", "warped"):
        return _untrained(method, held_out)
    runs = [_run(method, {**held_out, "seed": seed}) for seed in range(seeds)]
    for seed, run in enumerate(runs):
        print(f"{method}, {speaker}, seed {seed}: {run}", flush=True)
    return {shots: float(np.mean([run[shots] for run in runs])) for shots in SHOTS}


def _run(method: str, settings: Mapping[str, Any]) -> Found:
    if method == "classifier":
        config = planning.resolve(load_config("speech", {**settings, **CLASSIFIER}))
    else:
        config = config_of("speech", method, settings, {})
    state = train(config)
    found = {}
    for shots in SHOTS:
        asked = config.model_copy(update={"data": {**config.data, "test_shots": shots}})
        (sums,) = test(asked, state, "test").values()
        found[shots] = mean_of(sums, "accuracy", 0 if method == "classifier" else -1)
    return found


def _untrained(method: str, settings: Mapping[str, Any]) -> Found:
    """Return the accuracy of the nearest support example, in the tasks of seed 0."""
    found = {}
    for shots in SHOTS:
        config = planning.resolve(load_config("speech", {**settings, "data.test_shots": shots}))
        learner = Learner.build(planning.workload(config))
        tasks = learner.evaluation_tasks(learner.family.population.clients("test")[0])
        distances = warped(tasks) if method == "warped" else straight(tasks)
        rows = np.arange(len(distances))[:, None]
        labels = tasks.support_y.numpy()[rows, distances.argmin(2)]
        found[shots] = float((labels == tasks.query_y.numpy()).mean())
    return found


def straight(tasks: TaskBatch) -> Values:
    """Return the distance of each query to each support spectrogram, ``[T, Q, S]``."""
    support, query = tasks.support_x.flatten(2).double(), tasks.query_x.flatten(2).double()
    return torch.cdist(query, support).numpy()


def warped(tasks: TaskBatch) -> Values:
    """Return the same after dynamic time warping of the frames (Sakoe, Chiba 1978, symmetric form)."""
    return np.stack(
        [
            _warped_pairs(query[:, 0].double().numpy(), support[:, 0].double().numpy())
            for query, support in zip(tasks.query_x, tasks.support_x, strict=True)
        ]
    )


def _warped_pairs(query: Values, support: Values) -> Values:
    """Return the distances of ``query [Q, mels, frames]`` to ``support [S, mels, frames]``: ``[Q, S]``.

    Each step along both sounds counts twice, so that all paths have the same weight.
    """
    cost = np.sqrt(np.maximum(_squares(query, support), 0.0))
    frames = cost.shape[-1]
    total = np.full((*cost.shape[:2], frames + 1, frames + 1), np.inf)
    total[:, :, 0, 0] = 0.0
    # Diagonal by diagonal, all pairs at once.
    for step in range(2 * frames - 1):
        i = np.arange(max(0, step - frames + 1), min(frames, step + 1))
        j = step - i
        here = cost[:, :, i, j]
        straight_on = total[:, :, i, j] + 2 * here
        total[:, :, i + 1, j + 1] = np.minimum(
            straight_on, np.minimum(total[:, :, i, j + 1], total[:, :, i + 1, j]) + here
        )
    return total[:, :, -1, -1]


def _squares(query: Values, support: Values) -> Values:
    """Return squared distances between frames, ``[Q, S, frames, frames]``."""
    products = np.einsum("qmi,smj->qsij", query, support, optimize=True)
    own = (query**2).sum(1)[:, None, :, None], (support**2).sum(1)[None, :, None, :]
    return own[0] + own[1] - 2 * products


if __name__ == "__main__":
    main()
