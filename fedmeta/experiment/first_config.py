"""Chooses a first config for a user's own data."""

from collections.abc import Sequence
from pathlib import Path

from fedmeta.config.toml import from_toml
from fedmeta.errors import UsageError
from fedmeta.experiment import planning
from fedmeta.tasks.data.check import check


def first_config(path: Path, skip: Sequence[str] = ()) -> str:
    """Return a config for what is found at a path, as TOML with comments; its parts were built.

    Args:
        path: The user's data.
        skip: Clients, classes and files to leave out.

    Raises:
        UsageError: If no config suits what is found, or the data cannot be used.
    """
    found = check(path, skip=skip)
    if found.starter is None:
        raise UsageError(
            f"{path}: no task family reads {found.facts['what']} like these as they are: see "
            "docs/your-own-data.md for the layouts"
        )
    text = found.starter().text()
    planning.check(planning.resolve(from_toml(text)), trial=False)
    return text
