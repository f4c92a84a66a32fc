"""Draws a half-cheetah run's return in training, before and after adaptation:
`python docs/make_half_cheetah.py RUN docs/figures/half-cheetah.svg`."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np

CURVES = {
    "return_before": ("before adaptation", "#b0583c"),
    "return": ("after one step", "#1f6f8b"),
}
WINDOW = 10
"""Rounds in a moving average, as a round's 20 tasks differ in their goals."""


def main() -> None:
    text = (Path(sys.argv[1]) / "metrics.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    rounds = np.array([row["round"] for row in rows])
    figure, axis = plt.subplots(figsize=(6, 3))
    for key, (label, colour) in CURVES.items():
        values = np.array([row[key] for row in rows])
        axis.plot(rounds, values, color=colour, alpha=0.25, linewidth=0.8)
        mean = np.convolve(values, np.ones(WINDOW) / WINDOW, mode="valid")
        axis.plot(rounds[WINDOW - 1 :], mean, color=colour, label=label)
    axis.set_xlabel("round of 20 tasks")
    axis.set_ylabel("return")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize="small")
    figure.tight_layout()
    figure.savefig(sys.argv[2], metadata={"Date": None})


if __name__ == "__main__":
    main()
