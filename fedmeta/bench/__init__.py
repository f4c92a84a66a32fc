"""Speed, measured against a rival in the same process run; the cases by name."""

from fedmeta.bench import chain, clients, engines, grid_overhead, maml
from fedmeta.bench.result import Case, Goal, Result
from fedmeta.errors import UsageError
from fedmeta.options import nearest

__all__ = ["ALL", "CASES", "Case", "Goal", "Result", "find_cases"]

ALL = "all"
"""Stands for every case."""

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        maml.EAGER,
        maml.COMPILED,
        maml.CONV4,
        grid_overhead.CASE,
        clients.REGISTERED,
        clients.ASKED,
        engines.CASE,
        chain.COST,
        chain.ROUND,
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
