"""A thousand random fault plans keep the invariants; twelve of them in the quick tests.

Run all: ``python -m pytest -m '' tests/federation/faults/test_thousand.py``.
"""

from pathlib import Path

import pytest

from tests.federation.faults.plans import check

FAST = 12
ALL = 1000


@pytest.mark.parametrize(
    "seed", [*range(FAST), *(pytest.param(s, marks=pytest.mark.slow) for s in range(FAST, ALL))]
)
def test_invariants_hold_under_random_faults(seed: int, tmp_path: Path) -> None:
    try:
        check(seed, tmp_path)
    except BaseException as error:
        raise AssertionError(f"replay it: python -m tests.federation.faults.replay {seed}") from error
