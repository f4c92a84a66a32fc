"""Draws a learning curve: `python docs/make_figures.py RUN docs/figures/learning-curve.svg`."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from fedmeta.experiment import RunFolder


def smooth(values: list[float], width: int) -> list[float]:
    """Mean over the last `width` rounds: one round's tasks are few."""
    return [sum(values[max(0, i - width + 1) : i + 1]) / min(i + 1, width) for i in range(len(values))]


def main() -> None:
    rows = RunFolder.open(Path(sys.argv[1])).metrics()
    rounds = [row["round"] for row in rows]
    figure, axes = plt.subplots(figsize=(7, 3.2))
    for key, label, colour in (
        ("accuracy", "after adaptation", "#1f6f8b"),
        ("accuracy_before", "before adaptation", "#b0583c"),
    ):
        values = [row[key] for row in rows]
        axes.plot(rounds, values, color=colour, alpha=0.15, linewidth=0.7)
        axes.plot(rounds, smooth(values, 25), color=colour, label=label)
    axes.set(xlabel="round", ylabel="accuracy of training clients", ylim=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center right")
    figure.tight_layout()
    figure.savefig(sys.argv[2], metadata={"Date": None})


if __name__ == "__main__":
    main()
