"""Findings of an audit, line by line."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fedmeta.chain.errors import ChainDownError
from fedmeta.errors import FedmetaError


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        ok: Whether it agrees; None: it could not be looked at, as the node is away.
        what: What was looked at.
        detail: What was found; where it does not agree, both values.
    """

    ok: bool | None
    what: str
    detail: str


class DisagreementError(Exception):
    """Two things that should be equal are not; the message names where, and both values."""


def look(what: str, check: Callable[[], str]) -> Finding:
    """Return what a check found: it returns what it saw, or raises where things disagree."""
    try:
        return Finding(True, what, check())
    except ChainDownError as error:
        return Finding(None, what, str(error))
    except (DisagreementError, FedmetaError) as error:
        return Finding(False, what, str(error))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # Somebody wrote into a file what no run writes.
        return Finding(False, what, f"malformed: {type(error).__name__}: {error}")


def require_equal(
    where: str, name: str, values: tuple[object, object], sources: tuple[str, str]
) -> None:
    """Raise unless two values are equal.

    Args:
        where: Such as ``round 3, client 7``.
        name: Of the field.
        values: The two.
        sources: Who says which.

    Raises:
        DisagreementError: Naming them all.
    """
    first, second = values
    if first != second:
        raise DisagreementError(
            f"{where}: {name} is {shown(first)} in {sources[0]} and {shown(second)} in {sources[1]}"
        )


def shown(value: object) -> str:
    """Return a value as a reader of the audit sees it."""
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    return "nothing" if value is None else str(value)


def counted(number: int, thing: str) -> str:
    """Return ``1 round`` or ``2 rounds``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def first_failure(findings: Iterable[Finding]) -> Finding | None:
    """Return the first thing that differs, else the first that was not seen; None if all agrees."""
    found = sorted((one for one in findings if not one.ok), key=lambda one: one.ok is None)
    return found[0] if found else None


def verdict(findings: Iterable[Finding]) -> bool | None:
    """Return whether all agrees; None if nothing differs and not everything could be looked at."""
    failure = first_failure(findings)
    return True if failure is None else failure.ok
