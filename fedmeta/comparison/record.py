"""Reads, checks and writes ``compare.json``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from fedmeta.errors import DataError
from fedmeta.files import finite, from_later, one_line, read_json, to_json, write_atomically

COMPARE = "compare.json"
VERSION = 1
"""Of what stands in it."""

OneT = TypeVar("OneT")
_MOST_RUNS = 10_000


class _First(FailFast):
    # Pydantic's own has no hash, which a union with None needs.
    def __hash__(self) -> int:
        return hash(type(self))


# The first thing that is wrong is told; a list of a million of them would fill the memory.
Many = Annotated[list[OneT], _First()]
Some = Annotated[list[OneT], _First(), Field(max_length=250)]
"""What every arm is shown with: as many of each as make a page that can be read at all."""


Count = Annotated[int, Field(gt=-(2**63), lt=2**63)]
Real = Annotated[float, Field(gt=-1e300, lt=1e300)]
Number = Count | Real
"""Whatever a run writes is smaller; what is larger could not be drawn."""


# A default list would be copied, with care, for each of a hundred thousand entries.
_NONE: Any = Field(default_factory=list)


class _Part(BaseModel):
    # Strict about what is drawn, indifferent to what a later version adds.
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
    """How many seeds reached the target, and what it took those that did."""

    reached: int
    rounds: Over | None = None
    bytes: Over | None = None


class CurvePoint(_Part):
    """A look at the test clients in the middle of an arm's runs."""

    round: Count
    tasks: Number | None = None
    bytes: Number | None = None
    mean: Real | None
    ci95: Real | None = None


class RunRecord(_Part):
    """An arm's run of one seed; `run` is its folder, from that of the comparison on."""

    seed: int
    run: str
    status: str
    reused: bool = False
    error: str | None = None


class ArmRecord(_Part):
    """An arm: what it is, how it stands, what it came to and what it took."""

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


class TargetRecord(_Part):
    """What was to be reached, after which adaptation step, and why that."""

    value: Real
    step: int
    why: str = ""


class CompareRecord(_Part):
    """What a ``compare.json`` says of a comparison.

    Attributes:
        interval: What intervals are over: seeds, or of one seed its clients. Files of earlier versions,
            which had those over seeds alone, do not say so.
        scale: What the values of the measure mean, see `scale_of`.
        model_extra: Where it comes from: command, versions and times, as `described` shows them.
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
        DataError: If something is wrong with them, or they are more than can be shown.
    """
    if later := later_version(data):
        raise DataError(f"{COMPARE}: {later}")
    try:
        record = CompareRecord.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = one_line(".".join(str(part) for part in first["loc"]), 100)
        raise DataError(
            f"{COMPARE}: {where}: {first['msg']}: it is half written, or of another version"
        ) from None
    if sum(len(arm.runs) for arm in record.arms) > _MOST_RUNS:
        raise DataError(f"{COMPARE}: arms: more than {_MOST_RUNS:,} runs, which are not shown")
    return record


def later_version(data: Mapping[str, Any]) -> str | None:
    """Return why a ``compare.json`` cannot be used, in one line, if a later version wrote it."""
    why = from_later(data, "version", VERSION)
    return why and f"it is {why}; use the version that wrote it"


def write(folder: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """Replace a folder's ``compare.json``, and return what it holds.

    Raises:
        OSError: If it cannot be written.
    """
    record: dict[str, Any] = finite({"kind": "compare", "version": VERSION, **data})
    write_atomically(folder / COMPARE, to_json(record, indent=1, default=str).encode())
    return record


def written(folder: Path) -> dict[str, Any]:
    """Return what a folder's ``compare.json`` holds; nothing if there is none or it is damaged."""
    try:
        data = read_json(folder / COMPARE)
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
