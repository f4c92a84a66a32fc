"""Exceptions shown to users: one line each, with the problem, its place and the remedy."""


class FedmetaError(Exception):
    """Base class of all deliberate errors; `exit_code` is the command line's exit status."""

    exit_code = 1


class UsageError(FedmetaError):
    """The request is invalid (a config, a path, a file): nothing was started or changed."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration key or value is unknown, out of range or inconsistent with others."""


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
