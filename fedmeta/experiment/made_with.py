"""The code, data, versions and settings that a run's rounds were made with.

``run.json`` has it as the list ``made``: an entry for the first round, and one for each resume at which
something had changed.
"""

import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmeta.config import Config, parts
from fedmeta.config.identity import later_settings, non_defaults
from fedmeta.experiment.user_code import Code, code_of, fedmeta_digest, file_of
from fedmeta.federation.faults.plan import FaultOptions

if TYPE_CHECKING:
    from fedmeta.tasks import TaskFamily

MADE = "made"
"""Key of ``run.json``."""
FROM = "from"
"""Key of an entry: its first round."""

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Made:
    """What rounds are made with, besides the config keys that cannot change on resume.

    Attributes:
        code: SHA-256 of the file of each of the user's own modules, by name; None: it has no file.
        data: Digest of the data as read; None: they are on other machines.
        fedmeta: Digest of fedmeta's own code, as far as it affects what a round computes.
        settings: Keys that may change on resume and affect what later rounds compute.
    """

    code: Code
    data: str | None
    fedmeta: str
    settings: dict[str, Any]

    def entry(self, first: int = 1) -> dict[str, Any]:
        """Return the entry of ``made`` for the rounds from `first` on."""
        return {FROM: first, **asdict(self)}


def data_of(config: Config, family: "TaskFamily | None" = None) -> str | None:
    """Return the digest of the data that a run of a config would read (see `data_digest`).

    Args:
        config: The resolved config.
        family: Its task family; None: it is built if the digest needs it.

    Raises:
        ConfigError: If the options do not fit the data.
        DataError: If the data cannot be read.
    """
    from fedmeta.tasks import build_family, data_digest

    clients = parts.population(config)

    def build() -> "TaskFamily":
        return family or build_family(config.task, config.data, clients, config.seed)

    return data_digest(config.task, config.data, clients, build)


def made_with(config: Config, data: str | None) -> Made:
    """Return what a run of a config would be made with now.

    Args:
        config: The resolved config; its parts are imported.
        data: The digest from `data_of`.

    Raises:
        ConfigError: If a user's file was edited after this process imported it.
    """
    return Made(code_of(config), data, fedmeta_digest(), later_settings(config))


def made_entries(info: Mapping[str, Any]) -> list[Entry]:
    """Return the ``made`` entries of a run's ``run.json``; none if an old version wrote it."""
    made = info.get(MADE)
    if not isinstance(made, list):
        return []
    return made if all(map(_is_entry, made)) else []


def _is_entry(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get(FROM), int):
        return False
    return all(isinstance(value.get(key, {}), dict) for key in ("code", "settings"))


def continued(made: Sequence[Entry], now: Made, done: int) -> list[Entry]:
    """Return the entries of a run that is resumed after `done` rounds.

    Args:
        made: Its entries so far; none if an old version wrote it.
        now: What it is resumed with.
        done: Rounds that are kept; entries of later rounds are dropped.
    """
    kept = [entry for entry in made or [{FROM: 1}] if entry[FROM] <= done]
    if not kept or _compared({**kept[-1], FROM: 1}) != _compared(now.entry()):
        kept.append(now.entry(done + 1))
    return kept


def difference(made: Sequence[Entry], wanted: Made) -> str | None:
    """Return why a run differs from one that would be made now; None if it does not.

    Args:
        made: The run's entries.
        wanted: What it would be made with now.
    """
    if not made or "code" not in made[0]:
        return "it does not record the code and data it was made with"
    for name in (name for name, digest in wanted.code.items() if digest is None):
        return f"module {name} has no file, so it may have changed"
    if len(made) > 1:
        one, other = made[0], made[1]
        why = [*code_changes(one, other), *_setting_changes(one, other)]
        return f"from round {other[FROM]} on it was made differently ({', '.join(why)})"
    first, now = made[0], wanted.entry()
    found = [*code_changes(first, now), *_setting_changes(first, now)]
    if not found and _compared(first) != _compared(now):
        found = ["its data were on other machines" if first.get("data") is None else "it is another run"]
    return ", ".join(found) or None


def _compared(entry: Entry) -> dict[str, Any]:
    """Return an entry without settings at their defaults, as versions differ in their keys."""
    settings = {"device": "cpu", "kernels": "eager", **(entry.get("settings") or {})}
    if isinstance(settings.get("faults"), dict):
        settings["faults"] = non_defaults(FaultOptions, settings["faults"])
    return {**entry, "settings": settings} if "settings" in entry else dict(entry)


def user_changes(before: Entry, now: Entry) -> Iterator[str]:
    """Yield descriptions of changes in the user's code and data that both entries record."""
    one, other = (dict(entry.get("code") or {}) for entry in (before, now))
    if "code" in before:
        for name in sorted({*one, *other}):
            if name not in other:
                yield f"module {name} is no longer used"
            elif name not in one:
                yield f"{file_of(name)} is new"
            elif one[name] != other[name]:
                yield f"{file_of(name)} changed"
    if None not in (before.get("data"), now.get("data")) and before["data"] != now["data"]:
        yield "the data changed"


def code_changes(before: Entry, now: Entry) -> Iterator[str]:
    """Yield descriptions of changes in the user's and fedmeta's code and in the data."""
    yield from user_changes(before, now)
    if before.get("fedmeta") not in (None, now.get("fedmeta")):
        yield "fedmeta's own code changed"


def _setting_changes(before: Entry, now: Entry) -> Iterator[str]:
    one, other = (_compared(entry).get("settings") or {} for entry in (before, now))
    for key in sorted(key for key in {*one, *other} if one.get(key) != other.get(key)):
        if key == "rounds":
            yield f"the learning rate is that of a run of {other.get(key)} rounds, not {one.get(key)}"
        elif key == "faults":
            yield "a different fault plan"
        else:
            yield f"{key} = {other.get(key)}, not {one.get(key)}"


PACKAGES = ("fedmeta", "torch", "flwr", "numpy", "safetensors", "scikit-learn")


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of each package that a run's result depends on."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def git_revision() -> str | None:
    """Return the git revision of fedmeta's code, marked if files differ; None if installed."""
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        return None
    try:
        shown = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return shown.stdout.strip()


def provenance() -> dict[str, Any]:
    """Return versions, the command and the revision, for ``run.json``."""
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"command": command, "versions": versions(), "git": git_revision()}
