"""The cases by name."""

from fedmeta.bench import (
    chain_cost,
    chain_round,
    clients,
    engines,
    grid_overhead,
    maml_conv4,
    maml_sinusoid,
    population,
)
from fedmeta.bench.result import Case
from fedmeta.errors import UsageError
from fedmeta.options import nearest

ALL = "all"
"""Stands for every case."""

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        maml_sinusoid.EAGER,
        maml_sinusoid.COMPILED,
        maml_conv4.CASE,
        grid_overhead.CASE,
        population.CASE,
        clients.CASE,
        engines.CASE,
        chain_cost.CASE,
        chain_round.CASE,
    )
}


def find_cases(name: str) -> list[Case]:
    """Return the case called `name`, or every case for ``all``.

    Raises:
        UsageError: If there is none.
    """
    if name == ALL:
        return list(CASES.values())
    if name not in CASES:
        raise UsageError(f"unknown case '{name}': {nearest(name, [*CASES, ALL])}")
    return [CASES[name]]
