"""Where tasks come from: data sets, task families, and how data is split over clients."""

from fedmeta.tasks.base import (
    FAMILIES,
    Population,
    Split,
    TaskBatch,
    TaskFamily,
    TaskSpec,
    build_family,
)
from fedmeta.tasks.seeding import stream, torch_generator

__all__ = [
    "FAMILIES",
    "Population",
    "Split",
    "TaskBatch",
    "TaskFamily",
    "TaskSpec",
    "build_family",
    "stream",
    "torch_generator",
]
