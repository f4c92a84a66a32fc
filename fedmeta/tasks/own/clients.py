"""Chooses which clients take part, and which are held out."""

import logging
from collections.abc import Mapping, Sequence
from functools import cache

from fedmeta.errors import ConfigError
from fedmeta.options import nearest
from fedmeta.tasks.population import Population, Split
from fedmeta.tasks.seeding import stream

Named = Mapping[Split, Sequence[object] | None]
"""The names of clients that a config gives, by split; None: they are drawn."""
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

log = logging.getLogger(__name__)


def choose(names: Sequence[str], population: Population, seed: int, where: str) -> tuple[str, ...]:
    """Return the name of each client of a population: a random order of `names`, by the seed.

    Args:
        names: The names of all clients, sorted.
        population: The clients of the run.
        seed: The run's seed.
        where: Where they are from, for messages.

    Raises:
        ConfigError: If there are too few.
    """
    count = len(population)
    if len(names) < count:
        raise ConfigError(
            f"clients = {count}, but {where} has {len(names)} clients: "
            f"set clients to {len(names)} or fewer"
        )
    order = stream(seed, "own", "clients").permutation(len(names)).tolist()
    if order[count:]:
        _warn(
            f"{len(order) - count} of the {len(names)} clients of {where} are not used, such as "
            f"'{names[order[count]]}': clients = {count}"
        )
    return tuple(names[place] for place in order[:count])


def choose_named(
    known: Sequence[str],
    named: Named,
    population: Population,
    seed: int,
    what: str,
) -> tuple[str, ...]:
    """Return the name of each client of a population; those of splits without names are drawn.

    Args:
        known: All names.
        named: The names of the validation and test clients, as in the keys ``data.SPLIT_WHAT``.
        population: The clients of the run.
        seed: The run's seed.
        what: What the clients are, such as ``speakers``.

    Raises:
        ConfigError: If a name is unknown or used twice, or their number is not that of the clients.
    """
    if len(population) > len(known):
        raise ConfigError(
            f"clients = {len(population)}, but there are {len(known)} {what}: set it to {len(known)} or "
            "less"
        )
    taken: list[str] = []
    fixed: dict[Split, list[str]] = {}
    for split, names in named.items():
        fixed[split] = [str(name) for name in names or ()]
        key = f"data.{split}_{what}"
        for name in fixed[split]:
            if name not in known:
                raise ConfigError(f"{key}: unknown {what[:-1]} '{name}': {nearest(name, known)}")
            if name in taken:
                raise ConfigError(f"{key}: '{name}' is named twice")
            taken.append(name)
        clients = len(population.clients(split))
        if names is not None and len(names) != clients:
            raise ConfigError(f"{key} names {len(names)}, but {split}_clients = {clients}")
    free = [name for name in known if name not in taken]
    order = [free[place] for place in stream(seed, what).permutation(len(free)).tolist()]
    chosen: list[str] = []
    for split in SPLITS:
        wanted = 0 if fixed.get(split) else len(population.clients(split))
        chosen += fixed.get(split) or order[:wanted]
        order = order[wanted:]
    return tuple(chosen)


@cache
def _warn(line: str) -> None:
    """Log a warning once per process, as a run builds its family more than once."""
    log.warning("%s", line)
