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
    blocks = [bytearray(int(sys.argv[2]) << 10) for _ in range(int(sys.argv[3]))]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str, kilobytes: int, blocks: int) -> int:
    shown = subprocess.run(
        [sys.executable, "-c", CHURN, mode, str(kilobytes), str(blocks)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(shown.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc gives freed memory back page by page")
@pytest.mark.parametrize(("kilobytes", "blocks"), [(64, 400), (50_000, 2)])
def test_memory_that_a_step_freed_is_not_faulted_in_again(kilobytes: int, blocks: int) -> None:
    """At least 25 MB a step are 6,400 pages, which 20 steps without it fault in again and again."""
    kept = faults(str(Path(allocator.__file__)), kilobytes, blocks)
    # Where the kernel backs large blocks with huge pages, few faults are left to save.
    assert kept < 2_000
    assert kept < faults("default", kilobytes, blocks)
