"""Task families, their data sets, and how data are partitioned among clients."""

from typing import TYPE_CHECKING

from fedmeta.lazy import lazy_names

if TYPE_CHECKING:
    from fedmeta.tasks.batch import MASK, Examples, TaskBatch, padded
    from fedmeta.tasks.families.digits import Digits
    from fedmeta.tasks.families.mnist import MNIST
    from fedmeta.tasks.families.omniglot import Omniglot
    from fedmeta.tasks.families.shakespeare import Shakespeare
    from fedmeta.tasks.families.sinusoid import Sinusoid
    from fedmeta.tasks.family import (
        FAMILIES,
        RemoteFamily,
        TaskFamily,
        TaskSpec,
        build_family,
        data_digest,
        drawing_together,
        family_kind,
        last_family_kept,
        shape_of_tasks,
    )
    from fedmeta.tasks.measure import Measure
    from fedmeta.tasks.objective import OBJECTIVES, Objective, build_objective, mean_of_examples
    from fedmeta.tasks.population import Population, Split
    from fedmeta.tasks.seeding import many_streams, stream, torch_generator
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "FAMILIES",
    "MASK",
    "MNIST",
    "OBJECTIVES",
    "Digits",
    "Examples",
    "Measure",
    "Objective",
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
    "build_objective",
    "data_digest",
    "drawing_together",
    "family_kind",
    "last_family_kept",
    "many_streams",
    "mean_of_examples",
    "padded",
    "shape_of_tasks",
    "stream",
    "torch_generator",
]
