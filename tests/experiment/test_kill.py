"""A run killed at any moment, any number of times, ends as if nothing had happened."""

import random
import signal
import time
from pathlib import Path

import pytest

from fedmeta.experiment import Config, run
from fedmeta.experiment.config import to_toml
from fedmeta.experiment.plan import resolve

from .helpers import TINY, contents, start

ROUNDS = 60


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.timeout(1800)
def test_a_run_killed_at_random_moments_ends_byte_for_byte_the_same(kills: int, tmp_path: Path) -> None:
    config = resolve(Config(**TINY | {"rounds": ROUNDS * kills // 10, "checkpoint_every": 3}))
    run(config, out=tmp_path / "undisturbed")
    path = tmp_path / "killed"
    (tmp_path / "tiny.toml").write_text(to_toml(config))
    moments = random.Random(20)  # seeded: the moments are the same each time, the machine's pace is not
    arguments = ("run", "tiny.toml", "--out", str(path))
    delivered = 0
    while True:
        process = start(*arguments, cwd=tmp_path)
        if delivered < kills:
            _wait_until_training(process, path)
            time.sleep(moments.uniform(0.0, 0.05))
            process.send_signal(signal.SIGKILL)
            delivered += process.wait() == -signal.SIGKILL
            process.communicate()
        else:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
            break
        arguments = ("resume", str(path))
    assert delivered == kills
    assert contents(path) == contents(tmp_path / "undisturbed")


def _wait_until_training(process, path: Path) -> None:
    """Wait until the log grows, or changes at all: this process has begun to write."""
    log = path / "metrics.jsonl"
    before = log.stat().st_mtime_ns if log.exists() else None
    while process.poll() is None:
        if log.exists() and log.stat().st_size and log.stat().st_mtime_ns != before:
            return
        time.sleep(0.002)
