"""Findings of `fedmeta data check` about a user's files."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedmeta.tasks.own.starter import Starter

MOST_LISTED = 20
"""Most refused files shown; --json lists all."""


@dataclass(frozen=True)
class Finding:
    """The findings about a user's files.

    Attributes:
        facts: The findings as plain values, for programs.
        lines: The same as label and text, for people.
        notes: Oddities and decisions, one line each.
        refused: Files that cannot be used, and why.
        starter: Makes a first config for `fedmeta init`; None: no task family reads them as they are.
    """

    facts: dict[str, Any]
    lines: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    refused: tuple[tuple[str, str], ...] = ()
    starter: Callable[[], Starter] | None = None


def refused_lines(refused: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    """Return lines about files that are refused."""
    lines = [("refused", f"{name}: {why}") for name, why in refused[:MOST_LISTED]]
    if more := len(refused) - MOST_LISTED:
        lines += [("refused", f"and {more} more; --json lists all")] if more > 0 else []
    return lines
