"""Freed memory is kept for the next step, where the C library can."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedmeta.learning import allocator

CHURN = """
import resource, runpy, sys
if sys.argv[1] != "default":
    # The file alone: the room around it takes seconds to import.
    runpy.run_path(sys.argv[1])["keep_freed_memory"]()
def step():
    blocks = [bytearray(64 << 10) for _ in range(400)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    shown = subprocess.run(
        [sys.executable, "-c", CHURN, mode], capture_output=True, text=True, check=True
    )
    return int(shown.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc gives freed memory back page by page")
def test_memory_that_a_step_freed_is_not_faulted_in_again() -> None:
    """25 MB a step are 6,400 pages, which 20 steps without it fault in again and again."""
    assert faults(str(Path(allocator.__file__))) < 2_000 < faults("default")
