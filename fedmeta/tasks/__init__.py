"""Where tasks come from: data sets, task families, and how data is split over clients."""

from fedmeta.tasks.base import (
    FAMILIES,
    Elsewhere,
    Population,
    Split,
    TaskBatch,
    TaskFamily,
    TaskSpec,
    build_family,
    data_digest,
    family_kind,
    shape_of_tasks,
)
from fedmeta.tasks.digits import Digits
from fedmeta.tasks.omniglot import Omniglot
from fedmeta.tasks.seeding import stream, torch_generator
from fedmeta.tasks.shakespeare import Shakespeare
from fedmeta.tasks.sinusoid import Sinusoid

__all__ = [
    "FAMILIES",
    "Digits",
    "Elsewhere",
    "Omniglot",
    "Population",
    "Shakespeare",
    "Sinusoid",
    "Split",
    "TaskBatch",
    "TaskFamily",
    "TaskSpec",
    "build_family",
    "data_digest",
    "family_kind",
    "shape_of_tasks",
    "stream",
    "torch_generator",
]
