"""Prints a row of docs/results.md: an experiment over several seeds.

    python docs/make_results.py quickstart [-s key=value ...] [--seeds 3] [--runs runs/results]

A run that is in the folder already is resumed or read, not repeated.
"""

import argparse
import statistics
from pathlib import Path

import fedmeta
from fedmeta.experiment import Result, parse_settings


def run(name: str, settings: list[str], seed: int, folder: Path) -> Result:
    label = "-".join([Path(name).stem, *(s.replace("/", "_") for s in settings), f"seed{seed}"])
    out = folder / label
    if (out / "config.toml").exists():
        return fedmeta.resume(out)
    return fedmeta.run(name, {**parse_settings(settings), "seed": seed}, out=out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("-s", "--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/results"))
    given = parser.parse_args()
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    results = [run(given.name, given.set, seed, given.runs) for seed in seeds]
    print(f"{given.name} {' '.join(given.set)}: {results[0].rounds} rounds, {results[0].tasks} tasks")
    print(f"seconds by seed: {', '.join(f'{result.wall_seconds:.0f}' for result in results)}")
    for steps in zip(*(result.final for result in results), strict=True):
        cells = [f"{steps[0].step:3d}"]
        for name in ("accuracy", "inductive_accuracy", "loss"):
            values = [getattr(step, name) for step in steps]
            if None not in values:
                by_seed = ", ".join(f"{value:.3f}" for value in values)
                cells.append(f"{name} {statistics.mean(values):.3f} (by seed {by_seed})")
        print(" | ".join(cells), flush=True)


if __name__ == "__main__":
    main()
