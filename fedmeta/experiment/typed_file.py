"""JSON files of a run that are read as strictly typed models, for reports."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from fedmeta.errors import DataError
from fedmeta.files import finite, from_later, one_line, read_json, to_json, write_atomically


class First(FailFast):
    """Ends the check of a list at its first mistake; Pydantic's class has no hash, as unions need."""

    def __hash__(self) -> int:
        return hash(type(self))


Real = Annotated[float, Field(gt=-1e300, lt=1e300)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Name = Annotated[str, Field(max_length=200)]


class Part(BaseModel):
    """Strict about values that are drawn, but ignores keys that a later version adds."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False, frozen=True)


PartT = TypeVar("PartT", bound=Part)


def short(value: float) -> float | None:
    """Return a number with five digits, enough for a picture; None if it is not finite."""
    return float(f"{value:.5g}") if abs(value) < float("inf") else None


def write_typed(path: Path, value: Part) -> None:
    """Write a model as JSON.

    Raises:
        OSError: If the file cannot be written.
    """
    text = to_json(finite(value.model_dump()), separators=(",", ":"))
    write_atomically(path, f"{text}\n".encode())


def read_typed(path: Path, kind: type[PartT], version: int, most: int) -> PartT | None:
    """Read what `write_typed` wrote; None: there is no such file.

    Args:
        path: The file, whose key ``version`` is that of its format.
        kind: The model.
        version: The latest version that is known.
        most: Most bytes.

    Raises:
        DataError: If the file is damaged or of another version, in one line.
    """
    try:
        value: Any = read_json(path, most)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise DataError(f"{path.name} is damaged") from None
    if isinstance(value, dict) and (later := from_later(value, "version", version)):
        raise DataError(f"{path.name} is {later}")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        where = one_line(".".join(str(part) for part in error.errors()[0]["loc"]), 100)
        more = f" ({where})" if where else ""
        raise DataError(f"{path.name} is damaged, or of another version{more}") from None
