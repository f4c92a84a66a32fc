"""The shape of tasks, and the interface of task families."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import torch

from fedmeta import parts
from fedmeta.errors import ConfigError, MissingDataError
from fedmeta.options import Options, parse_options
from fedmeta.registry import Registry, name_of
from fedmeta.tasks.batch import TaskBatch
from fedmeta.tasks.graph import GraphShape
from fedmeta.tasks.population import Population
from fedmeta.tasks.seeding import stream

_LAST: ContextVar["dict[str, TaskFamily] | None"] = ContextVar("the family built last", default=None)
PROBED_CLIENTS = 32
"""Clients whose tasks are hashed for a family without a `digest` of its own."""


@dataclass(frozen=True)
class TaskSpec:
    """The shape of a family's tasks, as a model needs it.

    Attributes:
        objective: The objective: ``classification`` (integer targets, cross-entropy), ``regression``
            (squared error), or a user's class or its dotted path; see `Objective`.
        input_shape: Shape of one example, without task and example axes; ``(length,)`` for text.
        outputs: Number of ways, regression dimensions, or output characters.
        vocabulary: Number of different input tokens; 0 where inputs are real numbers.
        own_labels: Whether labels differ in meaning between training tasks, so that only the support set
            defines them.
        instances: Examples of each class in a task that is one sequence, without a support set; 0:
            tasks have one. See `fedmeta.tasks.objectives.sequence`.
        new_classes: Whether labels mean the same in all training tasks but not in those of held-out
            clients, for whom a trained head is useless.
        graph: The layout of inputs that are graphs; None: they are not.
    """

    objective: str
    input_shape: tuple[int, ...]
    outputs: int
    vocabulary: int = 0
    own_labels: bool = False
    new_classes: bool = False
    instances: int = 0
    graph: GraphShape | None = None

    def __post_init__(self) -> None:
        if isinstance(self.objective, type):
            object.__setattr__(self, "objective", name_of(self.objective))
        if self.graph is not None and self.input_shape[1:] != (self.graph.columns,):
            raise ConfigError(
                f"graphs of {self.graph.columns} columns do not fit inputs of shape {self.input_shape}"
            )

    def made_up(self, tasks: int, rows: int, generator: torch.Generator) -> torch.Tensor:
        """Draw inputs without structure, ``[tasks, rows, *input_shape]``, to try a network on."""
        shape = (tasks, rows, *self.input_shape)
        if self.graph is not None:
            return self.graph.made_up(shape, generator)
        if self.vocabulary:
            return torch.randint(self.vocabulary, shape, generator=generator)
        return torch.randn(shape, generator=generator)


class TaskFamily(Protocol):
    """Interface of task families: every client's private data, and how to draw tasks from it.

    A family is a pure function of its options, the population and the run's seed: two processes that
    build the same family draw the same tasks.
    """

    Options: ClassVar[type[Options]]
    spec: TaskSpec
    population: Population

    def __init__(self, options: Any, population: Population, seed: int) -> None: ...

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        """Draw `count` tasks from the private data of `client`, in float32, using only `rng`."""
        ...


class DrawsTogether(Protocol):
    """A family that draws the tasks of many clients at once, faster than one client after the other."""

    def sample_many(
        self, clients: Sequence[int], count: int, rngs: Sequence[np.random.Generator]
    ) -> TaskBatch:
        """Draw `count` tasks of each client, in order, all of one split.

        They are the same bits as those of `TaskFamily.sample` with each client's own generator.
        """
        ...


def drawing_together(family: TaskFamily) -> DrawsTogether | None:
    """Return the family if it has a `sample_many` that goes with its `sample`; None if not.

    A subclass that overrides `sample` alone has not.
    """
    for kind in type(family).__mro__:
        if "sample_many" in vars(kind):
            return cast("DrawsTogether", family)
        if "sample" in vars(kind):
            return None
    return None


FAMILIES: Registry[type[TaskFamily]] = parts.FAMILIES


class RemoteFamily:
    """A family whose data are on other machines; only the shape of its tasks is known.

    Args:
        spec: The shape of its tasks.
        population: Its clients.
    """

    Options: ClassVar[type[Options]] = Options

    def __init__(self, spec: TaskSpec, population: Population) -> None:
        self.spec = spec
        self.population = population

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:  # noqa: ARG002
        """Raise, as nothing can be drawn here.

        Raises:
            MissingDataError: Always.
        """
        raise MissingDataError(f"the data of client {client} are not on this machine")


def shape_of_tasks(task: str, data: Mapping[str, Any]) -> TaskSpec | None:
    """Return the shape of a family's tasks without its data; None if it depends on the data.

    A family whose options determine the shape has a static method ``shape(options)``.

    Raises:
        ConfigError: For an unknown task or option.
    """
    family = family_kind(task)
    told = getattr(family, "shape", None)
    shape: TaskSpec | None = told(parse_options(family.Options, data, "data")) if told else None
    return shape


def build_family(task: str, data: Mapping[str, Any], population: Population, seed: int) -> TaskFamily:
    """Build the task family called `task` (a name or dotted path) from plain option values.

    Raises:
        ConfigError: For an unknown task or option, or options that the clients' data cannot satisfy.
        DataError: If a data file is missing or corrupt.
    """
    family, last = family_kind(task), _LAST.get()
    options = parse_options(family.Options, data, "data")
    if last is None:
        return family(options, population, seed)
    key = repr((task, options, population, seed))
    if key not in last:
        last.clear()  # one family may take most of the memory
        last[key] = family(options, population, seed)
    return last[key]


@contextmanager
def last_family_kept() -> Iterator[None]:
    """Let `build_family` return the family that it built last, if asked for the same again.

    For checks of many configs, most of which have the same data.
    """
    if _LAST.get() is not None:
        yield
        return
    token = _LAST.set({})
    try:
        yield
    finally:
        _LAST.reset(token)


def family_kind(task: str) -> type[TaskFamily]:
    """Return the task family called `task`, a name or dotted path.

    Raises:
        ConfigError: If there is none, or it is not a task family.
    """
    family = FAMILIES.get(task)
    options = getattr(family, "Options", None)
    if not (isinstance(options, type) and issubclass(options, Options) and hasattr(family, "sample")):
        raise ConfigError(
            f"task '{task}' is not a task family: it needs Options and sample(), see TaskFamily"
        )
    return family


def data_digest(
    task: str, data: Mapping[str, Any], population: Population, build: Callable[[], TaskFamily]
) -> str | None:
    """Return the SHA-256 of a family's data.

    A family may have a static method ``digest(options)``, which covers all of its data; an inherited one
    does not count, as the family may read other data than its base. Otherwise the digest is over a task
    of each client, or of 32 clients evenly spread over the population.

    Args:
        task: The family, a name or dotted path.
        data: Its options, as plain values.
        population: The clients.
        build: Returns the family; called only if it has no ``digest``.

    Returns:
        The digest; None if the data are not on this machine.
    """
    kind = family_kind(task)
    try:
        if "digest" in vars(kind):
            told: str = getattr(kind, "digest")(parse_options(kind.Options, data, "data"))  # noqa: B009
            return told
        family = build()
        return None if isinstance(family, RemoteFamily) else _digest_of_tasks(family, population)
    except MissingDataError:
        return None


def _digest_of_tasks(family: TaskFamily, population: Population) -> str:
    digest = hashlib.sha256()
    last, probed = len(population) - 1, min(PROBED_CLIENTS, len(population))
    for client in sorted({round(last * k / max(1, probed - 1)) for k in range(probed)}):
        try:
            tasks = family.sample(client, 1, stream(0, "digest", client))
            for _, tensor in tasks.tensors():
                digest.update(f"{client} {tensor.dtype} {tuple(tensor.shape)} ".encode())
                digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        except Exception as error:
            # A client without valid tasks is reported where clients train.
            digest.update(f"{client} {type(error).__name__} ".encode())
    return digest.hexdigest()
