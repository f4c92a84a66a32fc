"""Public names of a package, imported when they are first used."""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` (PEP 562) of a package that imports none of its modules.

    So a module of the package can be imported without the others, and without torch, which takes
    seconds. The names are those that type checkers see: the imports in the package's ``if
    TYPE_CHECKING`` block, which are read from its source.

    Args:
        package: Its ``__name__``.
    """
    homes = _imports_for_type_checkers(Path(str(sys.modules[package].__file__)))

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        value = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return load, names


def _imports_for_type_checkers(source: Path) -> dict[str, str]:
    """Return the names that a source imports ``if TYPE_CHECKING``, each with its module."""
    return {
        alias.name: statement.module
        for block in ast.parse(source.read_text("utf-8")).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom) and statement.module
        for alias in statement.names
    }
