"""Benchmark cases, goals and results."""

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from fedmeta.bench.timing import Timing, quartiles


def machine() -> str:
    """Describe this machine: its cores, its architecture and torch."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores, {platform.machine()}, torch {torch.__version__}"


@dataclass(frozen=True)
class Goal:
    """A target for a figure of a case.

    Attributes:
        what: The figure, with its unit.
        value: The measured value.
        bound: The target.
        sense: Whether `bound` is a lower or an upper bound.
        spread: Lower and upper quartile of `value`, if measured several times.
    """

    what: str
    value: float
    bound: float
    sense: Literal["at least", "at most"]
    spread: tuple[float, float] | None = None

    @property
    def met(self) -> bool:
        """Whether the value meets the bound."""
        return self.value >= self.bound if self.sense == "at least" else self.value <= self.bound

    def to_json(self) -> dict[str, Any]:
        """Return the goal as plain values."""
        return {
            "what": self.what,
            "value": round(self.value, 4),
            "goal": f"{self.sense} {self.bound:g}",
            "met": self.met,
            "spread": self.spread and [round(value, 4) for value in self.spread],
        }


@dataclass(frozen=True)
class Result:
    """Result of a case.

    Attributes:
        case: The case's name.
        measures: What was measured, in one line.
        ours_ms: Our median in milliseconds.
        rival_ms: The rival's median in milliseconds; None without a rival.
        rival: The rival's name.
        ratio_is: Direction of the ratio in `goals[0]`; None without a rival.
        threads: Threads of each side.
        runs: Samples of each side.
        goals: The case's targets; with a rival, the first is the ratio.
        others_ms: Medians of further rivals in milliseconds.
        details: More figures, by name including the unit.
        drawing: Lines of a text chart of the figures.
        machine: Description of the machine.
    """

    case: str
    measures: str
    ours_ms: float
    rival_ms: float | None
    rival: str | None
    ratio_is: Literal["rival / ours", "ours / rival"] | None
    threads: int
    runs: int
    goals: tuple[Goal, ...]
    others_ms: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, float] = field(default_factory=dict)
    drawing: tuple[str, ...] = ()

    machine: str = field(default_factory=machine)

    @property
    def ratio(self) -> float | None:
        """Ratio of the two medians, in the direction of `ratio_is`."""
        return self.goals[0].value if self.ratio_is else None

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {
            "case": self.case,
            "measures": self.measures,
            "ours_ms": self.ours_ms,
            "rival_ms": self.rival_ms,
            "rival": self.rival,
            "ratio": self.ratio,
            "ratio_is": self.ratio_is,
            "threads": self.threads,
            "runs": self.runs,
            "goals": [goal.to_json() for goal in self.goals],
            "others_ms": dict(self.others_ms),
            "details": dict(self.details),
            "machine": self.machine,
        }


@dataclass(frozen=True)
class Case:
    """A benchmark case.

    Attributes:
        name: Its name on the command line.
        measures: What it measures, in one line.
        runs: Default number of samples.
        run: Measures this case with a given number of samples.
    """

    name: str
    measures: str
    runs: int
    run: Callable[["Case", int], Result]

    def measure(self, runs: int | None = None) -> Result:
        """Measure with `runs` samples of each side; None: the case's default."""
        return self.run(self, runs or self.runs)


def ratio(top: Timing, bottom: Timing) -> tuple[float, tuple[float, float]]:
    """Return the ratio of the medians, and the quartiles of the ratios of paired samples."""
    pairs = [a / b for a, b in zip(top.samples, bottom.samples, strict=True)]
    return top.median / bottom.median, quartiles(pairs)
