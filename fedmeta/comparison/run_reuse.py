"""Finds finished and interrupted runs that a comparison can reuse."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from fedmeta.config import Config, parts
from fedmeta.config.identity import identity_keys
from fedmeta.config.trust import link_out_of, why_untrusted
from fedmeta.errors import UsageError
from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.made_with import (
    Made,
    data_of,
    difference,
    made_entries,
    made_with,
)

Note = Callable[[str], None]


@dataclass(frozen=True)
class RunSlot:
    """The folder of a run.

    Attributes:
        path: The folder.
        state: ``finished``: nothing to do; ``begun``: to be resumed; ``free``: does not exist yet.
    """

    path: Path
    state: Literal["finished", "begun", "free"]


def run_key(config: Config) -> str:
    """Return a key that is equal for configs whose runs compute the same.

    This assumes the same code and data, which `fedmeta.experiment.made_with` tracks.
    """
    return json.dumps(identity_keys(parts.without_defaults(config), place=True), sort_keys=True)


class RunFinder:
    """Finds a folder for each run of a comparison, without overwriting files or using damaged ones.

    Args:
        folder: The comparison's folder.
        note: Called with a line about each folder that is not used.
    """

    def __init__(self, folder: Path, note: Note) -> None:
        self.folder = folder
        self.note = note
        self._taken: set[Path] = set()
        self._made: dict[str, Made] = {}
        self._data: dict[str, str | None] = {}

    def made(self, config: Config) -> Made:
        """Return what a run of a config would be made with now.

        Raises:
            ConfigError: If a user's file was edited after this process imported it.
            DataError: If the data cannot be read.
        """
        what = run_key(config)
        if what not in self._made:
            # This builds a family that has no digest of its own, so do it once for all arms.
            about = {"task", "data", "clients", "validation_clients", "test_clients", "seed"}
            key = config.model_dump_json(include=about)
            if key not in self._data:
                self._data[key] = data_of(config)
            self._made[what] = made_with(config, self._data[key])
        return self._made[what]

    def find(self, name: str, config: Config) -> RunSlot:
        """Return the folder for a run of a config with the given name within the comparison."""
        wanted = run_key(config)
        own = next(self._own(name, config, wanted))
        if own.state != "finished":
            for path in self._finished.get(wanted, []):
                problem = self._trouble(RunFolder(path), config)
                if problem is None:
                    return RunSlot(path, "finished")
                self.note(f"{path}: {problem}: not used")
        self._taken.add(own.path)
        return own

    def _own(self, name: str, config: Config, wanted: str) -> Iterator[RunSlot]:
        number = 1
        while True:
            path = self.folder / (name if number == 1 else f"{name}-{number}")
            number += 1
            if path in self._taken:
                continue
            if not path.exists():
                yield RunSlot(path, "free")
                continue
            folder = RunFolder(path)
            try:
                if run_key(folder.config) != wanted:
                    continue
            except UsageError as error:
                self.note(f"{error}: running it again in a new folder")
                continue
            finished = folder.status == "finished"
            problem = self._trouble(folder, config) if finished else self._begun_trouble(folder, config)
            if problem is None:
                yield RunSlot(path, "finished" if finished else "begun")
            else:
                self.note(f"{path}: {problem}: running it again in a new folder")

    def _trouble(self, folder: RunFolder, config: Config) -> str | None:
        """Return why a finished run cannot be used; None if it can."""
        if link := link_out_of(folder.path):
            return f"{link} is a link that leads out of the folder"
        return damage(folder, config) or difference(made_entries(folder.info), self.made(config))

    def _begun_trouble(self, folder: RunFolder, config: Config) -> str | None:
        """Return why an interrupted run cannot be resumed; None if it can."""
        if problem := why_untrusted(folder.path, config) or begun_damage(folder):
            return problem
        # Without a checkpoint no round is kept, so it does not matter how they were made.
        kept = folder.checkpoints.rounds()
        return difference(made_entries(folder.info), self.made(config)) if kept else None

    @cached_property
    def _finished(self) -> dict[str, list[Path]]:
        """Finished runs next to the comparison and in other comparisons, by `run_key`."""
        found: dict[str, list[Path]] = {}
        beside = self.folder.parent
        for pattern in ("*/config.toml", "*/*/config.toml"):
            for file in sorted(beside.glob(pattern)):
                folder = RunFolder(file.parent)
                if folder.path.parent == self.folder or folder.status != "finished":
                    continue
                try:
                    found.setdefault(run_key(folder.config), []).append(folder.path)
                except UsageError:
                    # Of another version or damaged: ignore it.
                    continue
        return found


def damage(folder: RunFolder, config: Config) -> str | None:
    """Return why a finished run's files cannot be trusted; None if they can."""
    try:
        rows = folder.metrics()
        complete = [row["round"] for row in rows] == list(range(1, config.rounds + 1))
        tested = [step["step"] for step in folder.info["final"]] == list(config.evaluation.steps)
        for step in (step for row in rows for step in row["test"] or ()):
            # An infinite mean loss, where tasks diverged, is written as null.
            float("inf" if step["loss"] is None and step["diverged"] else step["loss"])
        if (folder.path / "test.jsonl").exists():
            folder.test()
    except UsageError as error:
        return str(error).removeprefix(f"{folder.path}/")
    except (KeyError, TypeError):
        return "metrics.jsonl or run.json lacks fields"
    except (ValueError, OverflowError):
        return "metrics.jsonl has a loss that is not a number"
    if not complete:
        return "metrics.jsonl does not have every round"
    return None if tested else "run.json does not have every result"


def begun_damage(folder: RunFolder) -> str | None:
    """Return why an interrupted run cannot be resumed; None if it can."""
    if folder.status == "unreadable":
        return "run.json is damaged"
    try:
        folder.metrics()
        folder.clients()
    except UsageError as error:
        return str(error).removeprefix(f"{folder.path}/")
    return None
