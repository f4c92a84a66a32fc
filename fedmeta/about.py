"""An algorithm's entry in lists: its paper, its kind, what it learns and sends."""

from dataclasses import dataclass
from typing import Literal

Family = Literal[
    "gradient",
    "closed form",
    "metric",
    "graph",
    "memory",
    "attention",
    "learned optimizer",
    "frozen base",
    "baseline",
]


@dataclass(frozen=True)
class About:
    """Where an algorithm comes from and what it does, for `fedmeta list algorithms`.

    Attributes:
        paper: Authors, year and title, as in the class's docstring.
        year: The paper's year.
        family: Kind of method.
        learns: What is meta-learned.
        sends: What each client sends.
    """

    paper: str
    year: int
    family: Family
    learns: str
    sends: str
