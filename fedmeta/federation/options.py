"""Options of the gate and of the server's optimizer, which a config reads without torch."""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from fedmeta.options import Options, nearest


class GateOptions(Options):
    """Bounds on a reply.

    Attributes:
        max_norm: Largest Euclidean norm of a client's pseudo-gradient.
        max_tasks: Largest task count that a client may claim; None: the number requested.
    """

    max_norm: float = Field(default=1000.0, gt=0)
    max_tasks: int | None = Field(default=None, ge=1)


class ServerOptions(Options):
    """The server's optimizer.

    Attributes:
        optimizer: Name of a class in `torch.optim`.
        lr: Its learning rate in the first round.
        options: Its other keyword arguments.
        schedule: How the rate falls over the rounds; ``linear`` is Reptile's.
        clip_norm: Largest Euclidean norm of the pseudo-gradient; a larger one is scaled down to it.
    """

    optimizer: str = "Adam"
    lr: float = Field(default=1e-3, gt=0)
    options: dict[str, Any] = Field(default_factory=dict)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    clip_norm: float | None = Field(default=None, gt=0)

    @field_validator("optimizer")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in (known := _optimizers()):
            raise ValueError(f"unknown torch.optim optimizer '{name}': {nearest(name, known)}")
        return name

    @model_validator(mode="after")
    def _takes_options(self) -> "ServerOptions":
        accepted = optimizer_arguments(self.optimizer) if self.options else ()
        for key in (key for key in self.options if key not in accepted):
            raise ValueError(
                f"no option '{key}' in torch.optim.{self.optimizer}: {nearest(key, accepted)}"
            )
        return self


@cache
def optimizer_arguments(name: str) -> tuple[str, ...]:
    """Return the keyword arguments of a `torch.optim` optimizer but for ``lr``, read from its source.

    An unknown one has none.
    """
    source = _optimizers().get(name)
    for kind in ast.parse(source.read_text("utf-8")).body if source else ():
        if isinstance(kind, ast.ClassDef) and kind.name == name:
            for method in kind.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    named = [*method.args.args, *method.args.kwonlyargs]
                    return tuple(one.arg for one in named if one.arg not in ("self", "params", "lr"))
    return ()


@cache
def _optimizers() -> dict[str, Path]:
    """Return the source file of each optimizer that `torch.optim` exports."""
    torch = find_spec("torch")
    assert torch is not None
    assert torch.origin is not None
    folder = Path(torch.origin).parent / "optim"
    exported = [
        (alias.name, folder / f"{statement.module.rpartition('.')[2]}.py")
        for statement in ast.parse((folder / "__init__.py").read_text("utf-8")).body
        if isinstance(statement, ast.ImportFrom) and statement.module
        for alias in statement.names
    ]
    return {name: file for name, file in exported if name[0].isupper() and name != "Optimizer"}
