"""What a ``compare.json`` must hold for a report to draw it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError


class _Part(BaseModel):
    # Strict about what is drawn, indifferent to what a later version adds.
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class _AtStep(_Part):
    step: int
    mean: float | None
    ci95: float | None = None
    values: list[float | None] = []
    clients_ci95: list[float | None] = []
    tasks_ci95: list[float | None] = []
    diverged: list[int | None] = []


class _Over(_Part):
    mean: float | None
    ci95: float | None = None
    values: list[float | None] = []


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
    settings: dict[str, Any] = {}
    status: str
    error: str | None = None
    runs: list[_Run] = []
    clients: list[int | None] = []
    final: list[_AtStep] | None = None
    difference: list[_AtStep] | None = None
    rounds: float | None = None
    tasks: float | None = None
    inner_steps: float | None = None
    local_steps: float | None = None
    wall_seconds: _Over | None = None
    bytes_down: float | None = None
    bytes_up: float | None = None
    to_target: _ToTarget | None = None
    curve: list[_Look] | None = None


class _Target(_Part):
    value: float
    step: int
    why: str = ""


class _Compare(_Part):
    kind: Literal["compare"]
    version: Literal[1]
    experiment: str
    status: str
    seeds: list[int]
    steps: list[int]
    measure: Literal["accuracy", "loss"]
    target: _Target | None = None
    test_clients: int | None = None
    interval: Literal["seeds", "clients"] = "seeds"
    arms: list[_Arm]


def problem_of_compare(data: dict[str, Any]) -> str | None:
    """Return what is wrong with the contents of a ``compare.json``, in one line; None if nothing is."""
    try:
        _Compare.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"compare.json: {where}: {first['msg']}: it is half written, or of another version"
    return None
