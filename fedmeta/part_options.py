"""Reads a part's declarations from its source: importing the part would import torch, for seconds.

A part's file imports what it computes with at its top, as any other. Of that file, and of those that it
imports, only the statements that these declarations need are run here.
"""

import ast
from functools import cache
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

from fedmeta.options import Options

_IMPORTED = (
    "fedmeta",
    "fedmeta.about",
    "fedmeta.errors",
    "fedmeta.files",
    "fedmeta.options",
    "fedmeta.registry",
)
"""Modules of fedmeta that are imported as usual: they import nothing that takes long."""
_INHERITED = ("Options", "second_order")
_OWN = ("about",)
"""Attributes that only the class itself can declare: a variant of a method is not the same method."""


def read_options(module: str, part: str) -> type[Options] | None:
    """Return the `Options` of a class that a module of fedmeta defines; None: it has none.

    The result has the fields of the class's own options, but is another class.
    """
    found: type[Options] | None = getattr(read_part(module, part), "Options", None)
    return found


def read_part(module: str, part: str) -> SimpleNamespace:
    """Return some attributes that a class in a module of fedmeta declares.

    These are ``Options`` and ``second_order``, its own or inherited, and its own ``about``.
    """
    found: SimpleNamespace = _source(module).value(part)
    return found


class _Source:
    """The source of a module, of which single names can be evaluated.

    Args:
        module: Its name.
    """

    def __init__(self, module: str) -> None:
        root, *rooms = module.split(".")
        place = files(root).joinpath(*rooms)
        file = (
            place / "__init__.py"
            if place.is_dir()
            else files(root).joinpath(*rooms[:-1], f"{rooms[-1]}.py")
        )
        self._names: dict[str, Any] = {"__name__": module}
        self._unread = {
            name: statement
            for statement in ast.parse(file.read_text("utf-8")).body
            for name in _bound_by(statement)
        }

    def value(self, name: str) -> Any:
        """Return the value of a name at the top of the module; in place of a part, what it declares."""
        if name in self._unread:
            self._names[name] = self._evaluate(name, self._unread.pop(name))
        return self._names[name]

    def _evaluate(self, name: str, statement: ast.stmt) -> Any:
        if isinstance(statement, ast.ImportFrom):
            home = statement.module or ""
            if home.startswith("fedmeta.") and home not in _IMPORTED:
                original = next(one.name for one in statement.names if name in (one.asname, one.name))
                return _source(home).value(original)
        if isinstance(statement, ast.ClassDef):
            bases = [self._run(ast.Assign([_TARGET], base))["base"] for base in statement.bases]
            if not any(isinstance(base, type) and issubclass(base, Options) for base in bases):
                return self._part(statement, bases)
        return self._run(statement)[name]

    def _part(self, statement: ast.ClassDef, bases: list[Any]) -> SimpleNamespace:
        part = SimpleNamespace()
        for base in reversed(bases):
            vars(part).update({k: v for k, v in vars(base).items() if k in _INHERITED})
        for inner in statement.body:
            if {*_INHERITED, *_OWN}.intersection(_bound_by(inner)):
                vars(part).update(self._run(inner))
        return part

    def _run(self, statement: ast.stmt) -> dict[str, Any]:
        """Run a statement, after those that define the names in it; return the names that it binds."""
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and node.id in self._unread:
                self.value(node.id)
        bound: dict[str, Any] = {}
        code = ast.fix_missing_locations(ast.Module([statement], []))
        exec(compile(code, self._names["__name__"], "exec"), self._names, bound)
        return bound


_source = cache(_Source)
_TARGET = ast.Name("base", ast.Store())


def _bound_by(statement: ast.stmt) -> list[str]:
    """Return the names that a statement binds, for the kinds of statements that options classes use."""
    if isinstance(statement, ast.Import):
        return [one.asname or one.name.partition(".")[0] for one in statement.names]
    if isinstance(statement, ast.ImportFrom):
        return [one.asname or one.name for one in statement.names]
    if isinstance(statement, ast.ClassDef | ast.FunctionDef):
        return [statement.name]
    if isinstance(statement, ast.AnnAssign) and statement.value is None:
        return []
    targets = (
        statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    )
    return [target.id for target in targets if isinstance(target, ast.Name)]
