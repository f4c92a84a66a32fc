"""Exceptions that a user may see: one line each, with what went wrong, where, and what to do."""


class FedmetaError(Exception):
    """Base of every error raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(FedmetaError):
    """The request itself is wrong (a config, a path, a file): nothing was started or changed."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration key or value is unknown, out of range or does not fit the others."""


class DataError(UsageError):
    """A data file is missing, corrupt, or holds too little for what was asked."""


class MissingDataError(DataError):
    """A data file is not on this machine."""


class RunError(FedmetaError):
    """A run that had started could not go on; finished rounds are kept."""


class LearnersFailedError(RunError):
    """Those without whom the run cannot go on raised; their tracebacks are in its ``errors.log``."""


class UntrainedError(RunError):
    """A run is over and did not learn: no reply was admitted, or too few in most of its rounds."""


class DivergedError(RunError):
    """The meta-learned state, or every update to it, became non-finite."""
