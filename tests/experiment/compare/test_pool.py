"""How many runs a machine does at once."""

import pytest

from fedmeta.experiment.compare import pool

GIB = 2**30


@pytest.mark.parametrize(
    ("cores", "free", "jobs"),
    [(2, 64 * GIB, 2), (16, 3.2 * GIB, 2), (16, 0.5 * GIB, 1), (4, float("inf"), 4)],
)
def test_as_many_as_cores_or_fewer_if_memory_is_short(
    cores: int, free: float, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "available_cores", lambda: cores)
    monkeypatch.setattr(pool, "free_bytes", lambda: free)
    assert pool.default_jobs() == jobs


def test_free_memory_is_what_the_machine_says() -> None:
    assert 0 < pool.free_bytes() < 2**50
