"""Exceptions shown to users: one line each, with the problem, its place and the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager


class FedmetaError(Exception):
    """Base class of all deliberate errors; `exit_code` is the command line's exit status."""

    exit_code = 1


class UsageError(FedmetaError):
    """The request is invalid (a config, a path, a file): nothing was started or changed."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration key or value is unknown, out of range or inconsistent with others.

    Args:
        message: The problem, in one line.
        key: Dotted path of the key with the problem; empty: not of one key.
    """

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


@contextmanager
def about(key: str) -> Iterator[None]:
    """Note in config errors of the block which key they are about, unless they say so themselves."""
    try:
        yield
    except ConfigError as error:
        error.key = error.key or key
        raise


class DataError(UsageError):
    """A data file is missing, corrupt, or has too little data."""


class MissingDataError(DataError):
    """A data file is not on this machine."""


class RunError(FedmetaError):
    """A run failed after its start; finished rounds are kept."""


class LearnersFailedError(RunError):
    """Clients that the run needs raised errors; their tracebacks are in its ``errors.log``."""


class UntrainedError(RunError):
    """A run ended without learning: no reply was admitted, or too few in most of its rounds."""


class DivergedError(RunError):
    """The meta-learned state, or all updates of it, became non-finite."""
