"""Where tasks come from: data sets, task families, and how data is split over clients."""

from fedmeta.tasks.families.digits import Digits
from fedmeta.tasks.families.omniglot import Omniglot
from fedmeta.tasks.families.shakespeare import Shakespeare
from fedmeta.tasks.families.sinusoid import Sinusoid
from fedmeta.tasks.family import (
    FAMILIES,
    Population,
    RemoteFamily,
    Split,
    TaskBatch,
    TaskFamily,
    TaskSpec,
    build_family,
    data_digest,
    family_kind,
    shape_of_tasks,
)
from fedmeta.tasks.seeding import stream, torch_generator

__all__ = [
    "FAMILIES",
    "Digits",
    "Omniglot",
    "Population",
    "RemoteFamily",
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
