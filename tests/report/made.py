"""Run and comparison folders to report on: real ones, and some written by hand."""

import json
from pathlib import Path
from typing import Any

from fedmeta.experiment import run
from tests.experiment.helpers import TINY

EVIL = "<img src=x onerror=alert(1)></script>"
"""A name that a careless page would run."""

DIGITS: dict[str, Any] = {
    "task": "digits",
    "algorithm": "maml",
    "model": "mlp",
    "rounds": 6,
    "clients": 12,
    "validation_clients": 1,
    "test_clients": 5,
    "cohort": 5,
    "workers": 1,
    "network": {"hidden": [8]},
    "evaluation": {"tasks": 3, "steps": [0, 1, 3], "every": 3, "track": 2, "track_tasks": 2},
    "incentives": {"rule": "leave-one-out", "tasks": 4},
    "behaviours": [{"kind": "copy", "clients": [2], "of": 1}],
}


def make(folder: Path, settings: dict[str, Any]) -> Path:
    """Run an experiment in `folder`, which is new; return it."""
    import tomli_w

    config = folder.with_suffix(".toml")
    config.write_text(tomli_w.dumps(settings))
    return run(str(config), out=folder).run


def make_sinusoid(folder: Path) -> Path:
    """A tiny regression run."""
    return make(folder, TINY | {"description": EVIL})


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a log."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def at(step: int, values: list[float], half: float | None) -> dict[str, Any]:
    """An entry of an arm by adaptation step."""
    return {"step": step, "mean": sum(values) / len(values), "ci95": half, "values": values}


def arm(name: str, place: int, seeds: list[int]) -> dict[str, Any]:
    """A finished arm of a comparison."""
    final = [0.5 + 0.1 * place + 0.01 * seed for seed in seeds]
    over = {"mean": 12.5, "ci95": 1.25, "values": [12.0, 13.0]}
    return {
        "name": name,
        "what": f"what {name} is",
        "settings": {"training": "centralized"},
        "status": "finished",
        "error": None,
        "runs": [
            {"seed": s, "run": f"{name}-seed{s}", "status": "finished", "reused": False, "error": None}
            for s in seeds
        ],
        "final": [at(0, [0.2] * len(seeds), 0.0), at(10, final, 0.03)],
        "difference": None if place == 0 else [at(0, [0.0, 0.0], 0.0), at(10, [0.1 * place] * 2, 0.02)],
        "rounds": 100,
        "tasks": 2400,
        "inner_steps": 12000,
        "local_steps": 1,
        "wall_seconds": over,
        "bytes_down": 0 if place == 0 else 1_500_000 * place,
        "bytes_up": 0 if place == 0 else 1_500_000 * place,
        "to_target": {
            "reached": 2,
            "rounds": {"mean": 40.0, "ci95": 5.0, "values": [38, 42]},
            "bytes": over,
        },
        "curve": [
            {
                "round": r,
                "tasks": 24 * r,
                "bytes": 0 if place == 0 else 30_000 * place * r,
                "mean": 0.3 + r / 500,
                "ci95": 0.01,
            }
            for r in (20, 40, 60, 80, 100)
        ],
    }


def make_comparison(folder: Path) -> Path:
    """A comparison of three arms that finished and one that failed; return its folder."""
    seeds = [0, 1]
    arms = [arm("centralized", 0, seeds), arm("federated", 1, seeds), arm("fedavg", 2, seeds)]
    failed = arm("more & more", 3, seeds) | {
        "status": "failed",
        "error": f"round 3: {EVIL}",
        "final": [],
        "difference": None,
        "to_target": None,
        "curve": [],
    }
    folder.mkdir(parents=True)
    write_compare(folder, arms=[*arms, failed])
    for place, one in enumerate(arms):
        for entry in one["runs"]:
            path = folder / entry["run"]
            path.mkdir()
            rows = [
                {"client": c, "steps": [_step(0, 0.2), _step(10, client_accuracy(place, c))]}
                for c in range(20)
            ]
            (path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def client_accuracy(place: int, client: int) -> float:
    """The accuracy after ten steps of a test client in the runs of `make_comparison`."""
    return 0.5 + 0.1 * place + 0.01 * client


def _step(step: int, accuracy: float) -> dict[str, Any]:
    half = {"ci95": 0.02, "loss_ci95": 0.05, "inductive_ci95": None}
    return {
        "step": step,
        "loss": 1.0,
        "accuracy": accuracy,
        "tasks": 9,
        "inductive_accuracy": None,
    } | half


def write_compare(folder: Path, **changes: Any) -> None:
    """Write a ``compare.json`` with some entries changed."""
    data = {
        "kind": "compare",
        "version": 1,
        "experiment": "quickstart",
        "command": "fedmeta compare quickstart --seeds 2",
        "versions": {"python": "3.11.7"},
        "git": "abc",
        "status": "failed",
        "started": "2026-01-01T00:00:00+00:00",
        "ended": "2026-01-01T00:01:00+00:00",
        "wall_seconds": 60.0,
        "seeds": [0, 1],
        "steps": [0, 10],
        "measure": "accuracy",
        "target": {"value": 0.475, "step": 10, "why": "95% of centralized's final accuracy"},
        "arms": [],
    }
    (folder / "compare.json").write_text(json.dumps(data | changes))
