"""Draws the paths of a navigation run's policies before and after adaptation, without exploration noise:
`python docs/make_navigation.py RUN docs/figures/navigation.svg`."""

import io
import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import torch

import fedmeta
from fedmeta.experiment import planning
from fedmeta.learning import expand_state
from fedmeta.tasks import stream
from fedmeta.tasks.objectives.navigation import GOAL
from fedmeta.tasks.policy_gradient import ALIVE, NOISE

COLOURS = {0: "#b0583c", 1: "#6a9fb5", 3: "#1f6f8b"}
"""By adaptation steps."""
TASKS = 4


def main() -> None:
    learned = fedmeta.load(sys.argv[1])
    learner = planning.check(learned.config, trial=False)
    client = learner.family.population.clients("test")[0]
    tasks = learner.family.sample(client, TASKS, stream(0, "picture"))
    state = expand_state(learned.state, TASKS)
    quiet = {**tasks.query, NOISE: torch.zeros_like(tasks.query[NOISE])}
    figure, axes = plt.subplots(1, TASKS, figsize=(9, 2.6), sharex=True, sharey=True)
    for step, adapted in learner.algorithm.trajectory(state, tasks.support, sorted(COLOURS)):
        with torch.no_grad():
            said = learner.algorithm.predict(state, adapted, quiet)
        for axis, episodes in zip(axes, said, strict=True):
            x, y = episodes[0, episodes[0, :, ALIVE] > 0, ALIVE + 1 :].T
            label = f"{step} step{'' if step == 1 else 's'}"
            axis.plot(x, y, ".-", color=COLOURS[step], linewidth=1, markersize=3, label=label)
    for axis, goals in zip(axes, tasks.query[GOAL], strict=True):
        axis.plot(*goals[0], "*", color="black", markersize=9)
        axis.set_aspect("equal")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize="small", loc="best")
    figure.tight_layout()
    drawn = io.StringIO()
    figure.savefig(drawn, metadata={"Date": None})
    # Hundredths of a point are enough, but for the scale of the letters.
    short = re.sub(r"(?<!scale\()\b(\d+\.\d\d)\d+", r"\1", drawn.getvalue())
    Path(sys.argv[2]).write_text(short, encoding="utf-8")


if __name__ == "__main__":
    main()
