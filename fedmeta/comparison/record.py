"""Reads, checks and writes ``compare.json``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

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


# A default list would be copied, with care, for each of a hundred thousand entries.
_NONE: Any = Field(default_factory=list)


class _Part(BaseModel):
    # Strict about what is drawn, indifferent to what a later version adds.
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class _AtStep(_Part):
    step: int
    mean: float | None
    ci95: float | None = None
    values: Many[float | None] = _NONE
    clients_ci95: Many[float | None] = _NONE
    tasks_ci95: Many[float | None] = _NONE
    diverged: Many[int | None] = _NONE


class _Over(_Part):
    mean: float | None
    ci95: float | None = None
    values: Many[float | None] = _NONE


class _ToTarget(_Part):
    reached: int
    rounds: _Over | None = None
    bytes: _Over | None = None


class _Look(_Part):
    round: int
    tasks: float | None = None
    bytes: float | None = None
    mean: float | None
    ci95: float | None = None


class _Run(_Part):
    seed: int
    run: str
    status: str
    reused: bool = False
    error: str | None = None


class _Arm(_Part):
    name: str
    what: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    status: str
    error: str | None = None
    runs: Some[_Run] = _NONE
    clients: Many[int | None] = _NONE
    final: Some[_AtStep] | None = None
    difference: Some[_AtStep] | None = None
    rounds: float | None = None
    tasks: float | None = None
    inner_steps: float | None = None
    local_steps: float | None = None
    wall_seconds: _Over | None = None
    bytes_down: float | None = None
    bytes_up: float | None = None
    to_target: _ToTarget | None = None
    curve: Many[_Look] | None = None


class _Target(_Part):
    value: float
    step: int
    why: str = ""


class _Compare(_Part):
    kind: Literal["compare"]
    version: Literal[1]  # that is, VERSION
    experiment: str
    status: str
    seeds: Some[int]
    steps: Some[int]
    measure: str = Field(max_length=40)
    scale: dict[str, Any] | None = None
    target: _Target | None = None
    test_clients: int | None = None
    interval: Literal["seeds", "clients"] = "seeds"
    arms: Some[_Arm]


def problem_of_compare(data: dict[str, Any]) -> str | None:
    """Return what is wrong with the contents of a ``compare.json``, in one line; None if nothing is."""
    if later := later_version(data):
        return f"{COMPARE}: {later}"
    try:
        _Compare.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = one_line(".".join(str(part) for part in first["loc"]), 100)
        return f"{COMPARE}: {where}: {first['msg']}: it is half written, or of another version"
    if sum(len(arm.get("runs", [])) for arm in data["arms"]) > _MOST_RUNS:
        return f"{COMPARE}: arms: more than {_MOST_RUNS:,} runs, which are not shown"
    return None


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
