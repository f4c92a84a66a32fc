"""Names for the parts that a config can choose, with dotted paths for a user's own."""

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
"""Files that a folder of a run or a comparison holds."""

_by_package: dict[str, "Registry[Any]"] = {}
_forbidden: ContextVar[str] = ContextVar("forbidden", default="")


@contextmanager
def own_parts_only(why: str) -> Iterator[None]:
    """Import nothing by a dotted path in the block: who named it may not choose what code runs here.

    Args:
        why: What a message ends with.
    """
    token = _forbidden.set(why)
    try:
        yield
    finally:
        _forbidden.reset(token)


def import_dotted(path: str, what: str) -> Any:
    """Import ``package.module:Name`` (or ``package.module.Name``).

    The module may lie in the current folder, which is looked at last, and never in the folder of a run
    or a comparison: those are data, and come from anybody.

    Raises:
        ConfigError: If the module cannot be imported, holds no such name, lies in a run's folder, or may
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
        # A user's module may fail in any way while it is imported; all of them are the same mistake.
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"{what} '{path}' cannot be imported ({reason})") from None
    try:
        return getattr(module, name)
    except AttributeError:
        names = [n for n in vars(module) if not n.startswith("_")]
        raise ConfigError(f"{what} '{path}': no '{name}' there; {nearest(name, names)}") from None


def name_of(part: type) -> str:
    """Return what a config calls a class: its name if it comes with fedmeta, else its dotted path.

    Worker processes and a resumed run import it by that.

    Raises:
        ConfigError: If it cannot be imported so: it is of the main program, or within a function.
    """
    path = f"{part.__module__}:{part.__qualname__}"
    package, _, stem = part.__module__.rpartition(".")
    if package in _by_package:
        name = stem.replace("_", _by_package[package].separator)
        if name in _by_package[package]:
            return name
    if part.__module__ == "__main__" or "." in part.__qualname__:
        raise ConfigError(
            f"{part.__qualname__} cannot be imported again, by a worker process or to resume the run: "
            f"define it at the top of a module of its own, not in {part.__module__}"
        )
    return path


def run_folder_of(path: Path) -> Path | None:
    """Return the nearest folder of a run or a comparison that `path` is or lies in; None: in none."""
    real = path.resolve()
    folders = (real, *real.parents)
    return next((one for one in folders if any(os.path.lexists(one / name) for name in _MARKS)), None)


@contextmanager
def current_folder_on_path() -> Iterator[None]:
    """Look for modules in the current folder as well, after all other places; a run's folder is none.

    It stays where a module came from it: such a module may import another one of there at any time.
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
    places = [*getattr(module, "__path__", ()), getattr(module, "__file__", None) or ""]
    return any(os.path.dirname(place) == folder for place in places)


class _CodeInRunFolderError(Exception):
    """A module was found in the folder of a run or a comparison."""


def _import(name: str) -> ModuleType:
    """Import a module, having looked where it and the packages around it lie before any of them runs."""
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
        return  # the import itself fails in the usual words
    if spec is None:
        return
    places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.has_location else [])]
    for folder in (run_folder_of(Path(place)) for place in places if place):
        if folder:
            raise _CodeInRunFolderError(
                f"is not imported: {name} lies in {folder}, the folder of a run or a comparison, from "
                "which no code is taken; if you trust it, put it elsewhere"
            )


class Registry(Generic[PartT]):
    """Parts of one kind by name: each is a module of one package, and its file's stem is its name.

    ``meta_sgd.py`` holds the part ``meta_sgd``, a class called ``MetaSGD``, or a function called
    ``meta_sgd``. Names are read from the folder: no part is imported before it is asked for.

    Args:
        what: What the parts are called in messages, such as ``task``.
        package: Where they are, such as ``fedmeta.tasks.families``.
        separator: What stands in a name for an underscore of its file.
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
    """Return the class or function that has the name of its module; None: the module is not a part."""
    for line in re.finditer(r"^(?:class|def) ([A-Za-z]\w*)", source, re.MULTILINE):
        if line[1].replace("_", "").lower() == stem.replace("_", ""):
            return line[1]
    return None
