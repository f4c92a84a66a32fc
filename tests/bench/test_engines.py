"""The `engines` benchmark: both engines compute the same rounds with the same result."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fedmeta.bench.engines import require_same
from fedmeta.errors import RunError

RACE = """
import json
from fedmeta.bench.engines import race
from fedmeta.bench.rounds import small_workload
from fedmeta.federation import Plan

seen = race(small_workload(4), Plan(rounds=3, cohort=2), runs=2, workers=1)
samples = {name: timing.samples for name, timing in seen.rounds.items()}
print(json.dumps({"rounds": samples, "start": seen.start_seconds}))
"""


def test_engines_with_different_states_are_refused() -> None:
    ours = {"weight": torch.tensor([1.0, -200.0])}
    require_same(ours, {"weight": torch.tensor([1.001, -200.0])})
    with pytest.raises(RunError, match=r"'weight' differs between the engines by 1\.5e-05"):
        require_same(ours, {"weight": torch.tensor([1.003, -200.0])})


@pytest.mark.slow
def test_both_engines_do_the_same_rounds_and_rays_start_is_not_counted() -> None:
    process = subprocess.run(
        [sys.executable, "-c", RACE],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    seen = json.loads(process.stdout)
    assert list(seen["rounds"]) == ["vector, one process", "Ray"]
    assert all(len(samples) == 2 and min(samples) > 0 for samples in seen["rounds"].values())
    # A round of two clients takes a fraction of the seconds in which Ray starts.
    assert max(seen["rounds"]["Ray"]) < 1e3 * seen["start"]
