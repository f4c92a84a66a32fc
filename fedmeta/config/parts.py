"""Checks the parts that a config names, and their options; fedmeta's own are not imported for it."""

from collections.abc import Mapping
from typing import Any

from fedmeta.config.identity import set_in
from fedmeta.config.schema import Config
from fedmeta.federation.faults.plan import FaultPlan, read_faults
from fedmeta.federation.part_tables import BehaviourHead, PartTable, read_behaviours, read_postprocessors
from fedmeta.options import parse_options
from fedmeta.parts import ALGORITHMS, BEHAVIOURS, FAMILIES, MODELS, POSTPROCESSORS
from fedmeta.registry import Registry
from fedmeta.tasks.population import Population

_TABLES = {
    "task": ("data", FAMILIES),
    "algorithm": ("learner", ALGORITHMS),
    "model": ("network", MODELS),
}
"""The table with the options of each part, by the key that names the part."""


def require_parts(config: Config) -> None:
    """Refuse unknown parts and options, and parts of clients that there are not.

    A part of a user's own is imported; whether it is one is told where it is built.

    Raises:
        ConfigError: For the first mistake.
    """
    for key, (table, registry) in _TABLES.items():
        if options := registry.options(getattr(config, key)):
            parse_options(options, getattr(config, table), table)
    faults(config)
    assignments(config)
    read_postprocessors(config.postprocessors)


def population(config: Config) -> Population:
    """Return the clients of a config by split."""
    held_out = config.validation_clients + config.test_clients
    return Population(config.clients - held_out, config.validation_clients, config.test_clients)


def assignments(config: Config) -> list[PartTable[BehaviourHead]]:
    """Return the behaviours of misbehaving clients."""
    return read_behaviours(config.behaviours, population(config))


def faults(config: Config) -> FaultPlan:
    """Return the fault plan of a run."""
    return read_faults(config.faults, population(config), config.rounds, config.seed)


def concise(config: Config) -> Config:
    """Return a config without those options of its parts that have their defaults.

    So a new option of a part in a later version does not change the identity of a run. A user's own part
    is left unchanged, as it is not imported for this.
    """
    tables: dict[str, Any] = {
        table: _concise(registry, getattr(config, key), getattr(config, table))
        for key, (table, registry) in _TABLES.items()
    }
    for key, registry in (("behaviours", BEHAVIOURS), ("postprocessors", POSTPROCESSORS)):
        listed = getattr(config, key)
        tables[key] = [_concise(registry, part.get("kind"), part) for part in listed]
    return config.model_copy(update=tables)


def _concise(registry: Registry[Any], name: object, table: Mapping[str, Any]) -> dict[str, Any]:
    options = registry.options(str(name)) if name in registry else None
    return set_in(options, table) if options else dict(table)
