"""Every key of a config in words."""

from collections.abc import Iterator

from pydantic import BaseModel

from fedmeta.experiment.config.model import Config
from fedmeta.options import attribute_docs


def describe_keys() -> list[tuple[str, str, str]]:
    """Return (key, default, meaning) of every key of the config, nested ones by dotted path."""
    return list(_describe(Config, ""))


def _describe(kind: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    meanings = attribute_docs(kind)
    for name, spec in kind.model_fields.items():
        if isinstance(spec.annotation, type) and issubclass(spec.annotation, BaseModel):
            yield from _describe(spec.annotation, f"{prefix}{name}.")
            continue
        default = "(required)"
        if not spec.is_required():
            default = str(spec.get_default(call_default_factory=True))
        yield f"{prefix}{name}", default, meanings.get(name, "")
