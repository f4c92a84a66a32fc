"""Names for the parts that a config can choose, with dotted paths for a user's own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any, Generic, TypeVar

from fedmeta.errors import ConfigError
from fedmeta.options import nearest

PartT = TypeVar("PartT")

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

    Raises:
        ConfigError: If the module cannot be imported or holds no such name, or may not be imported
            here (see `own_parts_only`).
    """
    if why := _forbidden.get():
        raise ConfigError(f"{what} '{path}' is not imported: {why}")
    module_name, _, name = path.rpartition(":" if ":" in path else ".")
    try:
        module = import_module(module_name)
    except Exception as error:
        # A user's module may fail in any way while it is imported; all of them are the same mistake.
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"{what} '{path}' cannot be imported ({reason})") from None
    try:
        return getattr(module, name)
    except AttributeError:
        names = [n for n in vars(module) if not n.startswith("_")]
        raise ConfigError(f"{what} '{path}': no '{name}' there; {nearest(name, names)}") from None


class Registry(Generic[PartT]):
    """Maps short names to parts of one kind, for example task families.

    Args:
        what: What the parts are called in messages, such as ``task``.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._parts: dict[str, PartT] = {}

    def register(self, name: str) -> Callable[[PartT], PartT]:
        """Return a decorator that files its argument under `name`."""

        def add(part: PartT) -> PartT:
            self._parts[name] = part
            return part

        return add

    def get(self, name: str) -> PartT:
        """Return the part called `name`; a name with a dot or colon is imported.

        Raises:
            ConfigError: If the name is unknown or its dotted path cannot be imported.
        """
        if name in self._parts:
            return self._parts[name]
        if "." in name or ":" in name:
            part: PartT = import_dotted(name, self.what)
            return part
        raise ConfigError(f"unknown {self.what} '{name}': {nearest(name, self._parts)}")

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._parts))
