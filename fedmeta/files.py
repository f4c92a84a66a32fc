"""Atomic file writes, and the one form of JSON that fedmeta writes."""

import json
import math
import os
from pathlib import Path
from typing import Any


def to_json(value: Any, **layout: Any) -> str:
    """Return plain values as strict JSON (RFC 8259): a number that is not finite is null.

    Args:
        value: Dicts, lists, tuples, strings and numbers.
        layout: Arguments of `json.dumps`, such as ``indent``.
    """
    try:
        return json.dumps(value, allow_nan=False, **layout)
    except ValueError:
        return json.dumps(finite(value), allow_nan=False, **layout)


def finite(value: Any) -> Any:
    """Return plain values with None for each number that is not finite."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a crash leaves either the old or the new file, whole.

    Raises:
        OSError: If the disk is full or not writable; the old file is untouched then.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
