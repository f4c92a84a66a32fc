"""`Plan`: the server's settings for every round, and the options of its parts; read without torch."""

import ast
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from fedmeta.errors import ConfigError
from fedmeta.federation.aggregation import AggregationOptions
from fedmeta.options import Options, nearest
from fedmeta.tasks.population import Split


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
    """Return the keyword arguments of a `torch.optim` optimizer except ``lr``, read from its source.

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


@dataclass(frozen=True)
class Plan:
    """The server's side of a run.

    Attributes:
        rounds: Number of the last round; also the length of the learning-rate schedule.
        cohort: Training clients whose replies a round takes.
        quorum: Least admitted replies; with fewer the round is skipped.
        timeout: Seconds to wait for the replies of a round, and for the nodes to register.
        server: The server's optimizer.
        gate: The bounds on replies.
        aggregation: The aggregation rule.
        evaluate_every: Rounds between evaluations of the validation clients; 0: never.
        track: Rounds between evaluations of the test clients; 0: never.
        oversample: Clients asked beyond the cohort; the first ``cohort`` valid replies are used.
        checkpoint_every: Rounds between checkpoints; 0: none. A run resumes from one of the latest two,
            and clients keep enough memory for that.
    """

    rounds: int
    cohort: int
    quorum: int = 1
    timeout: float = 600.0
    server: ServerOptions = field(default_factory=ServerOptions)
    gate: GateOptions = field(default_factory=GateOptions)
    aggregation: AggregationOptions = field(default_factory=AggregationOptions)
    evaluate_every: int = 0
    track: int = 0
    oversample: int = 0
    checkpoint_every: int = 0

    def __post_init__(self) -> None:
        if self.cohort < 1:
            raise ConfigError(f"cohort = {self.cohort}: a round needs at least one client")
        if self.oversample < 0:
            raise ConfigError(f"oversample = {self.oversample}: must be at least 0")
        if not 0 <= self.quorum <= self.cohort:
            raise ConfigError(f"quorum = {self.quorum} is not within 0 and cohort = {self.cohort}")
        if not self.timeout > 0:
            raise ConfigError(f"timeout = {self.timeout}: must be above 0")
        self.aggregation.check(self.quorum, self.cohort)

    @property
    def asked(self) -> int:
        """Clients asked each round."""
        return self.cohort + self.oversample

    def oldest(self, round_: int) -> int:
        """Return the earliest round from which the run can resume once a round has begun."""
        every = self.checkpoint_every
        # Two checkpoints are kept, besides any newer one of an evaluated round.
        return max(0, every * ((round_ - 1) // every - 1)) if every else round_ - 1

    def evaluated(self, round_: int) -> list[Split]:
        """Return the splits of held-out clients that are evaluated after a round."""
        due: tuple[tuple[Split, int], ...] = (("validation", self.evaluate_every), ("test", self.track))
        return [split for split, every in due if every and round_ % every == 0]


def advice(plan: Plan) -> str:
    """Return advice for a run that diverges."""
    if plan.server.clip_norm is None:
        return "clip the meta-gradient (server.clip_norm = 1.0, say) or lower the learning rates"
    return f"lower server.clip_norm (now {plan.server.clip_norm:g}) or the learning rates"
