"""Reads, checks and writes a run's ``explanations.json``."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedmeta.experiment.typed_file import Count, First, Name, Part, Real, read_typed, write_typed

EXPLANATIONS = "explanations.json"
VERSION = 1
"""Version of its format."""
MOST_TASKS = 4
MOST_QUERIES = 20
"""Queries of a task; a run writes fewer."""
MOST_SUPPORT = 60
MOST_POINTS = 2000
MOST_STEPS = 300
MOST_SLOTS = 64
MOST_LAYERS = 500
_MOST_BYTES = 4 << 20


class QueryEvidence(Part):
    """A prediction, and how much each support example speaks for it.

    Attributes:
        query: Its place in the task's query set.
        label: Its true class.
        predicted: The predicted class.
        probability: The probability of that class.
        support: A value for each support example.
    """

    query: Count
    label: Count
    predicted: Count
    probability: Real
    support: Annotated[list[Real | None], First(), Field(max_length=MOST_SUPPORT)]


Column = Annotated[list[Real], First(), Field(max_length=MOST_POINTS)]
Labels = Annotated[list[Count], First(), Field(max_length=MOST_POINTS)]


class FeatureMap(Part):
    """Features of a task's examples in two dimensions.

    Attributes:
        name: With which weights, such as ``before adaptation``.
        shares: Parts of the variance along both axes.
        separation: Part of the features' variance that lies between the means of the classes.
        x: First principal component of the queries, then of the support examples.
        y: The second.
        labels: Their classes.
        queries: How many of them are queries.
    """

    name: Name
    shares: Annotated[list[Real], Field(min_length=2, max_length=2)]
    separation: Real | None
    x: Column
    y: Column
    labels: Labels
    queries: Count

    @model_validator(mode="after")
    def _as_long(self) -> "FeatureMap":
        if not len(self.x) == len(self.y) == len(self.labels) >= self.queries:
            raise ValueError("coordinates and labels differ in number")
        return self


class Layer(Part):
    """A value of a layer; None: not known."""

    name: Name
    value: Real | None


Layers = Annotated[list[Layer], First(), Field(max_length=MOST_LAYERS)]
Weights = Annotated[
    list[Annotated[list[Real], First(), Field(max_length=MOST_SLOTS)]],
    First(),
    Field(max_length=MOST_STEPS),
]


class Memory(Part):
    """Where a memory is read and written, step by step; means over heads.

    Attributes:
        steps: A name for each step.
        slots: The number of each slot that is shown; those that are written to, of many the most.
        reads: The weight of each slot in each step.
        writes: The same.
    """

    steps: Annotated[list[Name], First(), Field(max_length=MOST_STEPS)]
    slots: Annotated[list[Count], First(), Field(max_length=MOST_SLOTS)]
    reads: Weights
    writes: Weights

    @model_validator(mode="after")
    def _rectangular(self) -> "Memory":
        for rows in (self.reads, self.writes):
            if len(rows) != len(self.steps) or any(len(row) != len(self.slots) for row in rows):
                raise ValueError("weights for other steps or slots")
        return self


class TaskExplanation(Part):
    """Explanations of a test task, the same that is in ``examples.safetensors``.

    Attributes:
        client: Whose it is.
        support: The class of each support example.
        how: Where the values of `queries` come from, see `SupportEvidence`; empty: there are none.
        note: Why there are none.
        queries: Some predictions.
        maps: Features before and after.
        changes: Relative change of each layer's weights in adaptation.
        similarities: Linear CKA of each layer's outputs before and after adaptation.
        memory: Of a method with a memory.
    """

    client: Count
    support: Annotated[list[Count], First(), Field(max_length=MOST_SUPPORT)]
    how: Literal["weights", "leave-one-out", ""] = ""
    note: Name = ""
    queries: Annotated[list[QueryEvidence], First(), Field(max_length=MOST_QUERIES)]
    maps: Annotated[list[FeatureMap], First(), Field(max_length=4)]
    changes: Layers
    similarities: Layers
    memory: Memory | None = None

    @model_validator(mode="after")
    def _values_for_all(self) -> "TaskExplanation":
        if any(len(one.support) != len(self.support) for one in self.queries):
            raise ValueError("values for other support examples")
        return self


class Rate(Part):
    """Mean, 10th and 90th percentile of the learned rates of a tensor in one step."""

    mean: Real
    low: Real
    high: Real


class TensorRates(Part):
    """Learned rates of a tensor, for each inner step; one entry if all steps have the same."""

    name: Name
    steps: Annotated[list[Rate], First(), Field(max_length=100)]


class Explanations(Part):
    """The contents of an ``explanations.json``.

    Attributes:
        algorithm: The name of the algorithm.
        steps: Adaptation steps.
        tasks: Some test tasks.
        rates: Learned rates by tensor, of the first task's model.
        initial_rate: Where they started.
    """

    kind: Literal["explanations"]
    version: Literal[1]  # that is, VERSION
    algorithm: Name
    steps: Count
    tasks: Annotated[list[TaskExplanation], First(), Field(max_length=MOST_TASKS)]
    rates: Annotated[list[TensorRates], First(), Field(max_length=MOST_LAYERS)]
    initial_rate: Real | None = None


def write(folder: Path, explanations: Explanations) -> None:
    """Write a run's explanations.

    Raises:
        OSError: If the file cannot be written.
    """
    write_typed(folder / EXPLANATIONS, explanations)


def read(folder: Path) -> Explanations | None:
    """Read a run's explanations; None: it has none.

    Raises:
        DataError: If the file is damaged or of another version, in one line.
    """
    return read_typed(folder / EXPLANATIONS, Explanations, VERSION, _MOST_BYTES)
