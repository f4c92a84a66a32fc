"""Reads, checks and writes ``compare.json``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from fedmeta.errors import DataError
from fedmeta.files import finite, from_later, one_line, read_json, to_json, write_atomically
from fedmeta.plain_words import requirement

COMPARE = "compare.json"
VERSION = 1
"""Version of its format."""

OneT = TypeVar("OneT")
_MOST_RUNS = 10_000


class _First(FailFast):
    # Pydantic's class has no hash, which a union with None needs.
    def __hash__(self) -> int:
        return hash(type(self))


# Only the first error is reported; a list of a million errors would fill the memory.
Many = Annotated[list[OneT], _First()]
Some = Annotated[list[OneT], _First(), Field(max_length=250)]
"""Lists that are shown for every arm, limited so that a page stays readable."""


Count = Annotated[int, Field(gt=-(2**63), lt=2**63)]
Real = Annotated[float, Field(gt=-1e300, lt=1e300)]
Number = Count | Real
"""Values beyond these bounds do not occur in runs and cannot be drawn."""


# A plain default list would be deep-copied for each of a hundred thousand entries.
_NONE: Any = Field(default_factory=list)


class _Part(BaseModel):
    # Strict about values that are drawn, but ignores keys that a later version adds.
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False, frozen=True)


class AtStep(_Part):
    """An arm's result after an adaptation step, or its difference to the first arm's; lists by seed."""

    step: int
    mean: Real | None
    ci95: Real | None = None
    values: Many[Real | None] = _NONE
    clients_ci95: Many[Real | None] = _NONE
    tasks_ci95: Many[Real | None] = _NONE
    diverged: Many[int | None] = _NONE


class Over(_Part):
    """A mean over seeds, and each seed's value."""

    mean: Real | None
    ci95: Real | None = None
    values: Many[Number | None] = _NONE


class ToTarget(_Part):
    """How many seeds reached the target, and the rounds and bytes of those that did."""

    reached: int
    rounds: Over | None = None
    bytes: Over | None = None


class CurvePoint(_Part):
    """An evaluation of the test clients during an arm's runs."""

    round: Count
    tasks: Number | None = None
    bytes: Number | None = None
    mean: Real | None
    ci95: Real | None = None


class RunRecord(_Part):
    """An arm's run of one seed; `run` is its folder relative to the comparison's."""

    seed: int
    run: str
    status: str
    reused: bool = False
    error: str | None = None


class TrialRecord(_Part):
    """One combination of an arm's searched settings, with its value on the validation clients."""

    settings: dict[str, Any]
    value: Real | None
    chosen: bool = False
    error: str | None = None


class ArmRecord(_Part):
    """An arm: its settings, status, results and costs."""

    name: str
    what: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    status: str
    error: str | None = None
    runs: Some[RunRecord] = _NONE
    clients: Many[int | None] = _NONE
    final: Some[AtStep] | None = None
    difference: Some[AtStep] | None = None
    rounds: Number | None = None
    tasks: Number | None = None
    inner_steps: Number | None = None
    local_steps: Number | None = None
    wall_seconds: Over | None = None
    bytes_down: Number | None = None
    bytes_up: Number | None = None
    to_target: ToTarget | None = None
    curve: Many[CurvePoint] | None = None
    search: Some[TrialRecord] = _NONE


class TargetRecord(_Part):
    """The target value, its adaptation step, and its origin."""

    value: Real
    step: int
    why: str = ""


class CompareRecord(_Part):
    """The contents of a ``compare.json``.

    Attributes:
        interval: Whether intervals are over seeds or, with one seed, over its clients. Old files, which
            only had intervals over seeds, do not have this key.
        scale: Direction and range of the measure, see `scale_of`.
        model_extra: Its origin: command, versions and times, as `described` shows them.
    """

    model_config = ConfigDict(extra="allow")

    kind: Literal["compare"]
    version: Literal[1]  # that is, VERSION
    experiment: str
    status: str
    seeds: Some[int]
    steps: Some[int]
    measure: str = Field(max_length=40)
    scale: dict[str, Any] | None = None
    target: TargetRecord | None = None
    test_clients: int | None = None
    interval: Literal["seeds", "clients"] = "seeds"
    arms: Some[ArmRecord]


def parse(data: Mapping[str, Any]) -> CompareRecord:
    """Return the contents of a ``compare.json`` as a record.

    Raises:
        DataError: If they are invalid, or too large to be shown.
    """
    if later := later_version(data):
        raise DataError(f"{COMPARE}: {later}")
    try:
        record = CompareRecord.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = one_line(".".join(str(part) for part in first["loc"]), 100)
        raise DataError(
            f"{COMPARE}: {where}: {requirement(first)}: the file is incomplete, or of another version"
        ) from None
    if sum(len(arm.runs) for arm in record.arms) > _MOST_RUNS:
        raise DataError(f"{COMPARE}: arms: more than {_MOST_RUNS:,} runs cannot be shown")
    return record


def later_version(data: Mapping[str, Any]) -> str | None:
    """Return a one-line reason why a ``compare.json`` cannot be used, if a later version wrote it."""
    why = from_later(data, "version", VERSION)
    return why and f"it is {why}; use the version that wrote it"


def write(folder: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """Replace a folder's ``compare.json``, and return its contents.

    Raises:
        OSError: If it cannot be written.
    """
    record: dict[str, Any] = finite({"kind": "compare", "version": VERSION, **data})
    write_atomically(folder / COMPARE, to_json(record, indent=1, default=str).encode())
    return record


def written(folder: Path) -> dict[str, Any]:
    """Return the contents of a folder's ``compare.json``; empty if it is missing or damaged."""
    try:
        data = read_json(folder / COMPARE)
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
