"""Helpers for tests of runs on SuperNodes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedmeta.federation.engines.deployment.local import LocalFederation

DIGITS: dict[str, Any] = {
    "task": "digits",
    "algorithm": "maml",
    "model": "mlp",
    "rounds": 3,
    "clients": 4,
    "test_clients": 1,
    "cohort": 2,
    "quorum": 1,
    "timeout": 120.0,
    "network": {"hidden": [64]},
    "learner": {"inner_lr": 0.1, "inner_steps": 5},
    "evaluation": {"tasks": 100, "steps": [0, 10]},
}
"""A small run of four clients, one of them held out; two are asked in a round."""
PAIR = DIGITS | {"clients": 2, "test_clients": 0, "cohort": 2}
"""The same of two clients, both of them asked."""


def on(federation: LocalFederation) -> dict[str, Any]:
    return {"engine": "deployment", "deployment": federation.options.model_dump()}


def wait_until(done: Callable[[], bool], seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def rounds_of(path: Path) -> int:
    log = path / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0
