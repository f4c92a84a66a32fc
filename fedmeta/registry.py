"""Registries of the parts that a config names; users' own parts are named by dotted path."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from fedmeta.errors import ConfigError
from fedmeta.options import Options, nearest

PartT = TypeVar("PartT")

_MARKS = ("run.json", "compare.json")
"""Files that mark the folder of a run or a comparison."""

_by_package: dict[str, "Registry[Any]"] = {}
_forbidden: ContextVar[str] = ContextVar("forbidden", default="")


@contextmanager
def own_parts_only(why: str) -> Iterator[None]:
    """Forbid imports by dotted path in the block, so an untrusted config cannot choose code to run.

    Args:
        why: The reason, at the end of messages.
    """
    token = _forbidden.set(why)
    try:
        yield
    finally:
        _forbidden.reset(token)


def import_dotted(path: str, what: str) -> Any:
    """Import ``package.module:Name`` (or ``package.module.Name``).

    The module may be in the current folder, which is searched last, but not in the folder of a run or a
    comparison: those are untrusted data.

    Raises:
        ConfigError: If the module cannot be imported, has no such name, is in a run's folder, or must
            not be imported here (see `own_parts_only`).
    """
    if why := _forbidden.get():
        raise ConfigError(f"{what} '{path}' is not imported: {why}")
    module_name, _, name = path.rpartition(":" if ":" in path else ".")
    try:
        with current_folder_on_path():
            module = _import(module_name)
    except _CodeInRunFolderError as error:
        raise ConfigError(f"{what} '{path}' {error}") from None
    except Exception as error:
        # A user's module may raise anything when imported.
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"{what} '{path}' cannot be imported ({reason})") from None
    try:
        return getattr(module, name)
    except AttributeError:
        names = [n for n in vars(module) if not n.startswith("_")]
        raise ConfigError(f"{what} '{path}': no '{name}' there; {nearest(name, names)}") from None


def name_of(part: type) -> str:
    """Return a class's name in configs: its short name if it is part of fedmeta, else its dotted path.

    Worker processes and resumed runs import it by this name.

    Raises:
        ConfigError: If it cannot be imported by name: it is defined in the main program or a function.
    """
    path = f"{part.__module__}:{part.__qualname__}"
    package, _, stem = part.__module__.rpartition(".")
    if package in _by_package:
        name = stem.replace("_", _by_package[package].separator)
        if name in _by_package[package]:
            return name
    if part.__module__ == "__main__" or "." in part.__qualname__:
        raise ConfigError(
            f"{part.__qualname__} cannot be imported by worker processes or a resumed run: "
            f"define it at the top level of its own module, not in {part.__module__}"
        )
    return path


def run_folder_of(path: Path) -> Path | None:
    """Return the innermost run or comparison folder that contains `path`; None if there is none."""
    real = path.resolve()
    folders = (real, *real.parents)
    return next((one for one in folders if any(os.path.lexists(one / name) for name in _MARKS)), None)


@contextmanager
def current_folder_on_path() -> Iterator[None]:
    """Search the current folder for modules too, after all other places, unless it is a run's folder.

    It stays on the path once a module was found there, which may later import others from it.
    """
    here = _current_folder()
    if here is None or here in sys.path or "" in sys.path:
        yield
        return
    before = set(sys.modules)
    sys.path.append(here)
    try:
        yield
    finally:
        new = [module for name, module in list(sys.modules.items()) if name not in before]
        if here in sys.path and not any(_lies_directly_in(here, module) for module in new):
            sys.path.remove(here)


def _current_folder() -> str | None:
    try:
        here = os.getcwd()
    except OSError:
        return None
    return None if run_folder_of(Path(here)) else here


def _lies_directly_in(folder: str, module: ModuleType) -> bool:
    # By its spec, as torch.classes answers any attribute, __path__ too, with an object of its own.
    spec = getattr(module, "__dict__", {}).get("__spec__")
    places = [*(spec.submodule_search_locations or ()), spec.origin or ""] if spec else []
    return any(os.path.dirname(place) == folder for place in places)


class _CodeInRunFolderError(Exception):
    """A module was found in the folder of a run or a comparison."""


def _import(name: str) -> ModuleType:
    """Import a module, after checking the location of it and of each parent package before it runs."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        part = ".".join(parts[:end])
        if part not in sys.modules:
            _require_outside_runs(part)
        module = import_module(part)
    return module


def _require_outside_runs(name: str) -> None:
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return  # the import itself raises the usual error
    if spec is None:
        return
    places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.has_location else [])]
    for folder in (run_folder_of(Path(place)) for place in places if place):
        if folder:
            raise _CodeInRunFolderError(
                f"is not imported: {name} is in {folder}, the folder of a run or a comparison, "
                "which must not provide code; if you trust it, move it elsewhere"
            )


class Registry(Generic[PartT]):
    """Parts of one kind by name: one module of a package per part, with its file's stem as the name.

    ``meta_sgd.py`` holds the part ``meta_sgd``: a class ``MetaSGD`` or a function ``meta_sgd``. Names
    are read from the folder; parts are imported on demand.

    Args:
        what: The parts' name in messages, such as ``task``.
        package: Their package, such as ``fedmeta.tasks.families``.
        separator: Replaces underscores of file names in part names.
    """

    def __init__(self, what: str, package: str, separator: str = "_") -> None:
        self.what = what
        self.separator = separator
        self._package = package
        _by_package[package] = self

    def get(self, name: str) -> PartT:
        """Return the part called `name`; a name with a dot or colon is imported.

        Raises:
            ConfigError: If the name is unknown or its dotted path cannot be imported.
        """
        if name in self._parts:
            module, attribute = self._parts[name]
            part: PartT = getattr(import_module(module), attribute)
        elif "." in name or ":" in name:
            part = import_dotted(name, self.what)
        else:
            raise ConfigError(f"unknown {self.what} '{name}': {nearest(name, self)}")
        return part

    def options(self, name: str) -> type[Options] | None:
        """Return the options class of a part; None if it declares none. fedmeta's are not imported.

        Raises:
            ConfigError: As `get`.
        """
        module, attribute = self._parts.get(name, ("", ""))
        if module and module not in sys.modules:
            from fedmeta.part_options import read_options

            return read_options(module, attribute)
        found = getattr(self.get(name), "Options", None)
        return found if isinstance(found, type) and issubclass(found, Options) else None

    def location(self, name: str) -> tuple[str, str]:
        """Return the module of one of fedmeta's parts, and the part's name there; it is not imported."""
        return self._parts[name]

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._parts))

    @cached_property
    def _parts(self) -> dict[str, tuple[str, str]]:
        """Module and attribute of each part, by name."""
        root, *rooms = self._package.split(".")
        parts = {}
        for file in files(root).joinpath(*rooms).iterdir():
            stem, _, ending = file.name.rpartition(".")
            if ending == "py" and (attribute := _named_after(stem, file.read_text("utf-8"))):
                name = stem.replace("_", self.separator)
                parts[name] = f"{self._package}.{stem}", attribute
        return parts


def _named_after(stem: str, source: str) -> str | None:
    """Return the class or function named like its module; None if the module is not a part."""
    for line in re.finditer(r"^(?:class|def) ([A-Za-z]\w*)", source, re.MULTILINE):
        if line[1].replace("_", "").lower() == stem.replace("_", ""):
            return line[1]
    return None
