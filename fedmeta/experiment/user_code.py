"""Digests of the code that a run uses: the user's own modules, and fedmeta's.

A user's code is the modules that a config's dotted paths name, and those that they import. Python's own
modules and installed packages are identified by their versions, and their imports are not followed.
"""

import ast
import hashlib
import importlib.metadata
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from fedmeta.config import Config
from fedmeta.errors import ConfigError
from fedmeta.registry import current_folder_on_path

Code = dict[str, str | None]
"""SHA-256 of a module's file, by the module's name; None: it has no file."""

_DOTTED = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*[.:][^\W\d]\w*")
_INSTALLED = {"site-packages", "dist-packages"}
_OWN_ROOMS = ("tasks", "learning", "federation", "training", "incentives")
_OWN_FILES = ("experiment/planning.py", "experiment/held_out.py", "experiment/scorer.py")

_first_read: dict[str, tuple[ModuleSpec | None, str]] = {}
"""Spec and digest of an imported module when first seen by this process; a reload makes a new spec."""


def code_of(config: Config) -> Code:
    """Return the digests of a user's modules that a config uses, by name, without importing any.

    These are modules that this process has imported or would find on its path. For a module of an
    installed package, the digest covers its file and version, and its imports are not followed. Modules
    loaded under computed names, and other files that are read, are not covered.

    Raises:
        ConfigError: If a file was edited after this process imported it, as the old code would run.
    """
    with current_folder_on_path():
        return _code_of(config)


def _code_of(config: Config) -> Code:
    found: Code = {}
    values = config.model_dump(exclude={"description", "compare"})
    todo = sorted({name for text in _texts(values) for name in _modules_named(text)})
    while todo:
        name = todo.pop()
        if name in found or name.partition(".")[0] == "fedmeta":
            continue
        module, spec = sys.modules.get(name), _spec(name)
        file = _file(module, spec)
        if module is None and file is None:
            continue
        installed = file is not None and _is_installed(file)
        if _is_pythons(spec, file):
            continue
        source = _read(spec, file)
        found[name] = _digest(name, spec, source, file if module else None, installed)
        if source and file and file.endswith(".py") and not installed:
            package = (spec.parent if spec else None) or name.rpartition(".")[0]
            todo += [one for one in _imports(source, package) if not _is_foreign(one)]
    return dict(sorted(found.items()))


def file_of(name: str) -> str:
    """Return the file or name of a module of `code_of`, for messages."""
    return _file(sys.modules.get(name), _spec(name)) or f"module {name}"


@cache
def fedmeta_digest() -> str:
    """Return the SHA-256 of the fedmeta sources that affect what a round computes.

    It covers ``tasks``, ``learning``, ``federation``, ``training`` and ``incentives``, and how a run is
    built. It is computed once per process, as modules are also imported once.
    """
    package = Path(__file__).resolve().parent.parent
    files = [file for room in _OWN_ROOMS for file in (package / room).rglob("*") if file.is_file()]
    kept = [file for file in files if file.suffix in (".py", ".c", ".h", ".cpp")]
    kept += [package / name for name in _OWN_FILES]
    digest = hashlib.sha256()
    for file in sorted(kept):
        digest.update(f"{file.relative_to(package).as_posix()} ".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a config, each of which may be a dotted path."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, Sequence):
        for one in value:
            yield from _texts(one)


def _modules_named(text: str) -> Iterator[str]:
    """Yield the modules that a dotted path leads to: the one it names, and that of the part itself."""
    if _DOTTED.fullmatch(text):
        name, _, part = text.rpartition(":" if ":" in text else ".")
        if name in sys.modules or _is_findable(name):
            yield from _with_parents(name)
            # A package may re-export a part that is defined elsewhere.
            home = getattr(getattr(sys.modules.get(name), part, None), "__module__", None)
            if isinstance(home, str):
                yield from _with_parents(home)


def _is_findable(name: str) -> bool:
    return _file(None, _spec(name)) is not None


def _with_parents(name: str) -> Iterator[str]:
    """Yield a module's parent packages and the module, in order of import."""
    parts = name.split(".")
    return (".".join(parts[: end + 1]) for end in range(len(parts)))


def _imports(source: bytes, package: str) -> Iterator[str]:
    """Yield all names in a source's import statements that may be modules."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - (node.level - 1)]
            base = ".".join([*(above if node.level else []), *([node.module] if node.module else [])])
            if base:
                yield from _with_parents(base)
                yield from (f"{base}.{alias.name}" for alias in node.names)


def _spec(name: str) -> ModuleSpec | None:
    """Return the spec of a module, without importing its packages."""
    module = sys.modules.get(name)
    if module is not None:
        return getattr(module, "__spec__", None)
    parent = name.rpartition(".")[0]
    around = _spec(parent) if parent else None
    if parent and not (around and around.submodule_search_locations):
        return None
    places = list(around.submodule_search_locations or ()) if around else None
    # Like an import statement, but without first importing the parent packages.
    found = (finder.find_spec(name, places) for finder in sys.meta_path)
    return next((spec for spec in found if spec), None)


def _file(module: ModuleType | None, spec: ModuleSpec | None) -> str | None:
    if spec and spec.has_location and spec.origin:
        return spec.origin
    # A script has no spec, and a module created in memory may still name a file.
    file = getattr(module, "__file__", None)
    return str(file) if file else None


def _is_foreign(name: str) -> bool:
    """Return whether a module is part of Python or of an installed package."""
    spec = _spec(name)
    file = _file(sys.modules.get(name), spec)
    return _is_pythons(spec, file) or (file is not None and _is_installed(file))


def _is_installed(file: str) -> bool:
    return not _INSTALLED.isdisjoint(Path(file).parts)


def _is_pythons(spec: ModuleSpec | None, file: str | None) -> bool:
    if file is None:
        # A namespace package is a folder without code.
        return bool(spec and (spec.origin in ("built-in", "frozen") or spec.submodule_search_locations))
    homes = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    inside = any(Path(file).is_relative_to(home) for home in homes)
    return inside and not _is_installed(file)


def _read(spec: ModuleSpec | None, file: str | None) -> bytes | None:
    """Read a module's file with its loader, as it may be in an archive."""
    if file is None:
        return None
    try:
        get: Any = getattr(spec.loader, "get_data", None) if spec else None
        return bytes(get(file)) if get else Path(file).read_bytes()
    except OSError:
        return None


def _digest(
    name: str, spec: ModuleSpec | None, source: bytes | None, loaded: str | None, installed: bool
) -> str | None:
    """Return a module's digest.

    Raises:
        ConfigError: If the file at `loaded` has changed since it was first seen.
    """
    if source is None:
        return None
    digest = hashlib.sha256(source)
    if installed:
        digest.update(_version(name.partition(".")[0]).encode())
    value = digest.hexdigest()
    if loaded:
        known_spec, known = _first_read.setdefault(name, (spec, value))
        if known_spec is not spec:
            _first_read[name] = (spec, value)
        elif known != value:
            raise ConfigError(
                f"{loaded} was edited after this process imported it, and the old code would run: "
                "reload it with importlib.reload, or start a new process"
            )
    return value


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
