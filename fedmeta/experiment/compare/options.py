"""The ``[compare]`` table of a config."""

import re
from typing import Any

from pydantic import Field, field_validator

from fedmeta.options import Options

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class CompareOptions(Options):
    """How `fedmeta compare` judges, and its arms; a run alone takes no notice of it.

    Attributes:
        target: Accuracy, in regression loss, to reach; None: a share of the reference arm's final one.
        share: That share of an accuracy; a loss is divided by it.
        step: Adaptation step that the target is about; None: the last of evaluation.steps.
        points: Looks at the test clients along a run.
        arms: Settings by name: they change an arm that comes with fedmeta, or make a new one.
    """

    target: float | None = None
    share: float = Field(0.95, gt=0, le=1)
    step: int | None = Field(None, ge=0)
    points: int = Field(25, ge=1)
    arms: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @field_validator("arms")
    @classmethod
    def _plain_names(cls, arms: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name in arms:
            if not _NAME.fullmatch(name):
                raise ValueError(f"an arm's name is of letters, digits, - and _, unlike {name!r}")
        return arms
