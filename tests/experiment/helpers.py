"""A small experiment and ways to compare two runs of it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests import processes

TINY: dict[str, Any] = {
    "task": "sinusoid",
    "algorithm": "maml",
    "model": "mlp",
    "rounds": 6,
    "clients": 9,
    "test_clients": 2,
    "validation_clients": 1,
    "cohort": 4,
    "tasks_per_client": 2,
    "workers": 1,
    "data": {"shots": 5, "queries": 5},
    "network": {"hidden": [8, 8]},
    "evaluation": {"tasks": 4, "steps": [0, 1, 3], "every": 2},
}


def without_times(metrics: Path) -> bytes:
    """The lines of a ``metrics.jsonl`` without the seconds of each round."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    timeless = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    return json.dumps(timeless).encode()


def contents(run: Path) -> dict[str, bytes]:
    """All that a run computed: its logs but for times, and every checkpoint's bytes."""
    files = {path.name: path.read_bytes() for path in sorted((run / "checkpoints").iterdir())}
    # A manifest holds the length of the logs, and a line's length depends on its time.
    for name in list(files):
        if name.endswith(".json"):
            manifest = json.loads(files[name])
            del manifest["log_bytes"]
            files[name] = json.dumps(manifest).encode()
    return files | {
        "metrics.jsonl": without_times(run / "metrics.jsonl"),
        "clients.jsonl": (run / "clients.jsonl").read_bytes(),
    }


def fedmeta(*arguments: str, cwd: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return processes.run(command(*arguments), cwd=cwd, **more)


def command(*arguments: str) -> list[str]:
    """The command line as a list, with this interpreter."""
    return [sys.executable, "-m", "fedmeta", *arguments]


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """Start the command line and do not wait for it."""
    return processes.Popen(
        command(*arguments),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
