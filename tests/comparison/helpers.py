"""A comparison small enough for a test."""

from typing import Any

from tests.experiment.helpers import TINY as TINY_RUN

TINY: dict[str, Any] = TINY_RUN | {
    "rounds": 10,
    "checkpoint_every": 5,
    "validation_clients": 0,
    "evaluation": {"tasks": 4, "steps": [0, 1, 3], "track_tasks": 2},
    "compare": {"points": 5},
}
"""Ten rounds of 4 clients with 2 tasks each: 80 tasks, which are two rounds of FedAvg."""

DIGITS: dict[str, Any] = TINY | {
    "task": "digits",
    "data": {"ways": 3, "shots": 1, "queries": 2},
    "learner": {"inner_lr": 0.1, "inner_steps": 2},
}
