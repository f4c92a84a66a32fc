"""Findings of an audit, one per line."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fedmeta.chain.errors import ChainDownError
from fedmeta.errors import FedmetaError


@dataclass(frozen=True)
class Finding:
    """Result of one check: what was checked, and what was found; on failure, both values."""

    ok: bool | None  # None: it could not run because the node is down.
    what: str
    detail: str


class DisagreementError(Exception):
    """Two values that should be equal differ; the message names the place and both values."""


def look(what: str, check: Callable[[], str]) -> Finding:
    """Run a check, and return its result: it returns a summary, or raises where values differ."""
    try:
        return Finding(True, what, check())
    except ChainDownError as error:
        return Finding(None, what, str(error))
    except (DisagreementError, FedmetaError) as error:
        return Finding(False, what, str(error))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # A file was edited into something that no run writes.
        return Finding(False, what, f"malformed: {type(error).__name__}: {error}")


def require_equal(
    where: str, name: str, values: tuple[object, object], sources: tuple[str, str]
) -> None:
    """Raise a `DisagreementError` unless two values, each with its source, are equal."""
    first, second = values
    if first != second:
        raise DisagreementError(
            f"{where}: {name} is {shown(first)} in {sources[0]} and {shown(second)} in {sources[1]}"
        )


def shown(value: object) -> str:
    """Return a value as the audit prints it."""
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    return "nothing" if value is None else str(value)


def counted(number: int, thing: str) -> str:
    """Return ``1 round`` or ``2 rounds``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def first_failure(findings: Iterable[Finding]) -> Finding | None:
    """Return the first failed check, else the first that could not run; None if all passed."""
    found = sorted((one for one in findings if not one.ok), key=lambda one: one.ok is None)
    return found[0] if found else None


def verdict(findings: Iterable[Finding]) -> bool | None:
    """Return whether all checks passed; None if none failed but some could not run."""
    failure = first_failure(findings)
    return True if failure is None else failure.ok
