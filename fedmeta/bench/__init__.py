"""Benchmarks of speed against rivals timed in the same process; the cases by name."""

from importlib import import_module
from typing import TYPE_CHECKING

from fedmeta.errors import UsageError
from fedmeta.lazy import lazy_names
from fedmeta.options import nearest

if TYPE_CHECKING:
    from fedmeta.bench.result import Case, Goal, Result
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["ALL", "CASES", "Case", "Goal", "Result", "find_cases"]

ALL = "all"
"""Name that selects every case."""

CASES = {
    "kernels": "kernels.CASE",
    "maml-sinusoid": "maml.EAGER",
    "maml-sinusoid-compiled": "maml.COMPILED",
    "maml-conv4": "maml.CONV4",
    "grid-overhead": "grid_overhead.CASE",
    "population": "clients.REGISTERED",
    "clients": "clients.ASKED",
    "engines": "engines.CASE",
    "chain-cost": "chain.COST",
    "chain-round": "chain.ROUND",
}
"""Where each case is, by name."""


def find_cases(name: str) -> "list[Case]":
    """Return the case called `name`, or every case for ``all``.

    Raises:
        UsageError: If there is none.
    """
    if name not in (*CASES, ALL):
        raise UsageError(f"unknown case '{name}': {nearest(name, [*CASES, ALL])}")
    return [_case(one) for one in (CASES if name == ALL else (name,))]


def _case(name: str) -> "Case":
    module, _, attribute = CASES[name].partition(".")
    case: Case = getattr(import_module(f"{__name__}.{module}"), attribute)
    return case
