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
    """A figure that a case is held to.

    Attributes:
        what: What was measured, with its unit.
        value: What came out.
        bound: What was wanted.
        sense: Whether `bound` is a least or a most.
        spread: Lower and upper quartile of `value`, where it was measured several times.
    """

    what: str
    value: float
    bound: float
    sense: Literal["at least", "at most"]
    spread: tuple[float, float] | None = None

    @property
    def met(self) -> bool:
        """Whether the value is on the right side of the bound."""
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
    """What a case came to.

    Attributes:
        case: Its name.
        measures: What was measured, in one line.
        ours_ms: Median milliseconds of our side.
        rival_ms: Median milliseconds of the rival's; None: the case has no rival.
        rival: What the rival is.
        ratio_is: What `goals[0]`, the ratio, divides by what; None: no rival.
        threads: Threads of each side.
        runs: Samples of each side.
        goals: What the case is held to; the first is about the ratio, if there is a rival.
        others_ms: Median milliseconds of further rivals.
        details: More figures, by a name that carries the unit.
        drawing: Lines that show the figures to a person.
        machine: Where it was measured, as far as it matters to a reader of ratios.
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
        """The two medians' ratio, in the direction of `ratio_is`."""
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
    """Something that can be measured.

    Attributes:
        name: What to call it on the command line.
        measures: What it measures, in one line.
        runs: Samples taken unless asked otherwise.
        run: Measures this case with a number of samples.
    """

    name: str
    measures: str
    runs: int
    run: Callable[["Case", int], Result]

    def measure(self, runs: int | None = None) -> Result:
        """Measure with `runs` samples of each side, or with as many as the case takes by itself."""
        return self.run(self, runs or self.runs)


def ratio(top: Timing, bottom: Timing) -> tuple[float, tuple[float, float]]:
    """Return the medians' ratio, and the quartiles of the ratios of neighbouring samples."""
    pairs = [a / b for a, b in zip(top.samples, bottom.samples, strict=True)]
    return top.median / bottom.median, quartiles(pairs)
