"""Chooses which of a user's clients take part, and which are held out."""

import logging
from collections.abc import Sequence
from functools import cache

from fedmeta.errors import ConfigError
from fedmeta.tasks.population import Population
from fedmeta.tasks.seeding import stream

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


@cache
def _warn(line: str) -> None:
    """Log a warning once per process, as a run builds its family more than once."""
    log.warning("%s", line)
