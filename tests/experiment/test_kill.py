"""A run that is killed at any moments ends as if it had not been."""

import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from fedmeta.config import to_toml
from fedmeta.experiment import Config, RunFolder, run
from fedmeta.experiment.planning import resolve
from tests.experiment.helpers import TINY, contents, start

ROUNDS = 60
LIFE = 1.0
"""About the seconds that a process which does all rounds takes."""


KINDS = ("crash-during", "late", "twice", "old-round", "vanish", "move", "garbage")
FAULTS = {"oversample": 2, "faults": {"rates": dict.fromkeys(KINDS, 0.05)}}


@pytest.mark.parametrize(
    ("kills", "changes"),
    [
        (6, {}),
        (4, FAULTS),
        pytest.param(100, {}, marks=pytest.mark.slow),
        pytest.param(50, FAULTS, marks=pytest.mark.slow),
    ],
    ids=["in-peace", "with-faults", "in-peace-often", "with-faults-often"],
)
@pytest.mark.timeout(1800)
def test_a_run_killed_at_random_moments_ends_byte_for_byte_the_same(
    kills: int, changes: dict[str, Any], tmp_path: Path
) -> None:
    own = {"rounds": ROUNDS * kills // 10, "checkpoint_every": 3}
    config = resolve(Config(**TINY | own | changes))
    run(config, out=tmp_path / "undisturbed")
    path = tmp_path / "killed"
    (tmp_path / "tiny.toml").write_text(to_toml(config))
    # Seeded: the moments are the same each time, only the machine's pace is not.
    moments = random.Random(20)
    for kill in range(kills):
        process = start(*_arguments(path), cwd=tmp_path)
        if kill % 2:
            _wait_until_training(process, path)
            time.sleep(moments.uniform(0.0, 0.1))
        else:
            # Anywhere in a process's life: while it starts, makes its folder, trains or tests.
            time.sleep(moments.uniform(0.0, LIFE))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start(*_arguments(path), cwd=tmp_path)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert contents(path) == contents(tmp_path / "undisturbed")
    info, undisturbed = RunFolder.open(path).info, RunFolder.open(tmp_path / "undisturbed").info
    assert {row["step"] for row in info["final"]} == {0, 1, 3}
    assert info["replies"] == undisturbed["replies"]
    assert (info["replies"]["admitted"] < info["replies"]["asked"]) == bool(changes)


def _arguments(path: Path) -> tuple[str, ...]:
    """A folder is there whole or not at all, so that it can be resumed once it is there."""
    return ("resume", str(path)) if path.exists() else ("run", "tiny.toml", "--out", str(path))


def _wait_until_training(process: subprocess.Popen[str], path: Path) -> None:
    """Wait until this process has begun to write its log, or has ended."""
    log = path / "metrics.jsonl"
    before = log.stat().st_mtime_ns if log.exists() else None
    while process.poll() is None:
        if log.exists() and log.stat().st_size and log.stat().st_mtime_ns != before:
            return
        time.sleep(0.002)
