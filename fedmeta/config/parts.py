"""Checks the parts that a config names and their options, without importing built-in parts."""

from collections.abc import Mapping
from typing import Any

from fedmeta.config.identity import non_defaults
from fedmeta.config.schema import Config
from fedmeta.errors import about
from fedmeta.federation.faults.plan import FaultPlan, read_faults
from fedmeta.federation.part_tables import (
    BehaviourHead,
    PartTable,
    load_mods,
    read_behaviours,
    read_postprocessors,
)
from fedmeta.options import parse_options
from fedmeta.parts import BEHAVIOURS, OPTION_TABLES, POSTPROCESSORS
from fedmeta.registry import Registry
from fedmeta.tasks.population import Population


def require_parts(config: Config) -> None:
    """Refuse unknown parts and options, and behaviours of clients that do not exist.

    Users' own parts are imported; their base class is checked where they are built.

    Raises:
        ConfigError: For the first mistake.
    """
    for key, (table, registry) in OPTION_TABLES.items():
        with about(key):
            options = registry.options(getattr(config, key))
        if options:
            owner = f"{registry.what} '{getattr(config, key)}'"
            parse_options(options, getattr(config, table), table, owner)
    load_mods(config.mods)
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


def without_defaults(config: Config) -> Config:
    """Return a config without the options of its parts that have their default values.

    So a new option in a later version does not change the identity of a run. Options of users' own parts
    stay, as those parts are not imported here.
    """
    tables: dict[str, Any] = {
        table: _without_defaults(registry, getattr(config, key), getattr(config, table))
        for key, (table, registry) in OPTION_TABLES.items()
    }
    for key, registry in (("behaviours", BEHAVIOURS), ("postprocessors", POSTPROCESSORS)):
        listed = getattr(config, key)
        tables[key] = [_without_defaults(registry, part.get("kind"), part) for part in listed]
    return config.model_copy(update=tables)


def _without_defaults(registry: Registry[Any], name: object, table: Mapping[str, Any]) -> dict[str, Any]:
    options = registry.options(str(name)) if name in registry else None
    return non_defaults(options, table) if options else dict(table)
