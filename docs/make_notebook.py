"""Writes docs/comparison.ipynb and executes it: a small comparison, seen from a notebook.

    python docs/make_notebook.py [--out docs/comparison.ipynb]

Takes a minute or two, in a folder that is removed at the end. Needs the packages of the extra `dev`.
"""

import argparse
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.notebooknode import NotebookNode

NOTEBOOK = Path(__file__).with_name("comparison.ipynb")
SECONDS = 900

CELLS = [
    (
        "markdown",
        """
# Centralized against federated, in a notebook

Thirty clients hold turned and recoded handwritten digits; six of them are held out. Does it cost
much that the tasks of the others stay where they are, and what does ordinary federated averaging
make of them? This notebook trains three arms on the same number of tasks with two seeds each, a
fifth of the rounds of `quickstart`, and then uses what one of them has learned.
[results.md](results.md) has the comparison in full.
""",
    ),
    (
        "code",
        """
import fedmeta

comparison = fedmeta.compare(
    "quickstart",
    {"rounds": 300, "evaluation.track": 30},
    arms=["centralized", "federated", "fedavg"],
    seeds=2,
    execution=fedmeta.Execution(out="comparison"),
)
comparison.status
""",
    ),
    (
        "markdown",
        """
Each arm's accuracy on the held-out clients, means and 95% intervals over seeds. Two seeds make wide
intervals; the paired differences compare runs with the same data, initial weights and test tasks.
""",
    ),
    (
        "code",
        """
from IPython.display import HTML

from fedmeta.report.snippet import compare_snippet

HTML(compare_snippet(comparison.folder))
""",
    ),
    (
        "markdown",
        """
Every arm worked on as many tasks. What differs is what travelled, in a whole run; FedAvg takes five
local steps a round, and so a fifth of the rounds.
""",
    ),
    (
        "code",
        """
for arm in comparison.data["arms"]:
    megabytes = (arm["bytes_down"] + arm["bytes_up"]) / 1e6
    print(f"{arm['name']:12} {arm['tasks']:6.0f} tasks   {megabytes:7.1f} MB")
""",
    ),
    (
        "markdown",
        """
## A run

A run shows itself as its learning curve and its result by adaptation step.
""",
    ),
    (
        "code",
        """
run = fedmeta.load("comparison/federated-seed0")
run
""",
    ),
    (
        "markdown",
        """
## What it has learned, used

The model adapts to any labelled examples of the right shape. Here they are one image each of five
digits as scikit-learn has them, upright, standardised as the run's own were; it then labels twenty
others of each.
""",
    ),
    (
        "code",
        """
import numpy as np
from sklearn.datasets import load_digits

from fedmeta.tasks.families.digits import DEVIATION, LEVELS, MEAN

data = load_digits()
pixels = (data.data / LEVELS - MEAN) / DEVIATION
wanted = [1, 3, 4, 6, 9]
support = [np.flatnonzero(data.target == digit)[0] for digit in wanted]
query = [i for digit in wanted for i in np.flatnonzero(data.target == digit)[1:21]]

for steps in (0, 1, 3, 10):
    adapted = run.adapt(pixels[support], data.target[support], steps=steps)
    said = np.array(adapted.classes)[adapted.predict(pixels[query]).argmax(axis=1)]
    print(f"{steps:2} steps: {(said == data.target[query]).mean():.2f} of 100 images are right")
""",
    ),
    (
        "markdown",
        """
Chance is 0.20. `adapted.save("digits.safetensors")` writes the weights for a plain PyTorch network,
and `fedmeta adapt` does the same for folders of image files: see [adapt.md](adapt.md).
""",
    ),
]


def cells() -> list[NotebookNode]:
    """The notebook's cells, not executed; ids by place, so that the file changes only where they do."""
    made = []
    for place, (kind, source) in enumerate(CELLS):
        new = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
        made.append(new(source.strip(), id=f"cell-{place:02d}"))
    return made


def execute() -> NotebookNode:
    """The notebook with its outputs, executed in an empty folder."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells(), metadata={"kernelspec": kernel})
    with tempfile.TemporaryDirectory() as folder:
        # Times of execution would differ in every copy of the file.
        client = NotebookClient(
            notebook,
            timeout=SECONDS,
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        client.execute()
    notebook.metadata.pop("language_info", None)
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=NOTEBOOK)
    given = parser.parse_args()
    nbformat.write(execute(), given.out)


if __name__ == "__main__":
    main()
