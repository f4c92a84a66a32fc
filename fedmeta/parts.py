"""The parts that a config chooses by name, as far as their names and options tell without torch."""

from typing import Any

from fedmeta.registry import Registry

FAMILIES: Registry[Any] = Registry("task", "fedmeta.tasks.families")
OBJECTIVES: Registry[Any] = Registry("objective", "fedmeta.tasks.objectives")
ALGORITHMS: Registry[Any] = Registry("algorithm", "fedmeta.learning.algorithms")
MODELS: Registry[Any] = Registry("model", "fedmeta.learning.models")
POSTPROCESSORS: Registry[Any] = Registry(
    "postprocessor", "fedmeta.federation.postprocessors", separator="-"
)
BEHAVIOURS: Registry[Any] = Registry("behaviour", "fedmeta.federation.behaviours", separator="-")
WAYS: Registry[Any] = Registry("training", "fedmeta.training.ways")
AGGREGATION_RULES: Registry[Any] = Registry("rule", "fedmeta.federation.aggregation", separator="-")
INCENTIVE_RULES: Registry[Any] = Registry("incentives.rule", "fedmeta.incentives.rules", separator="-")

OPTION_TABLES = {
    "task": ("data", FAMILIES),
    "algorithm": ("learner", ALGORITHMS),
    "model": ("network", MODELS),
}
"""The table with the options of each part, by the key that names the part."""
