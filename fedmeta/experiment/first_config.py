"""Chooses a first config for a user's own data."""

from collections.abc import Sequence
from pathlib import Path

from fedmeta.config.toml import from_toml
from fedmeta.errors import UsageError
from fedmeta.experiment import planning
from fedmeta.tasks.data.check import check
from fedmeta.tasks.own.folders import LAYOUT

_NEEDS = {
    "images": f"there are no folders of classes: {LAYOUT}",
    "text": "a text needs a folder: one text, or one folder of texts, per client",
}


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
            f"{path}: {_NEEDS[found.facts['what']]} (docs/your-own-data.md shows the layouts)"
        )
    text = found.starter().text()
    planning.check(planning.resolve(from_toml(text)), trial=False)
    return text
