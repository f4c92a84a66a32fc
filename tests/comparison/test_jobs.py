"""How many runs are made at once, and that no run blocks the others."""

import signal
import time
from pathlib import Path

import pytest

from fedmeta.comparison import jobs as pool
from fedmeta.comparison.worker import Order
from fedmeta.config import Config
from fedmeta.experiment.made_with import made_with
from fedmeta.federation.engines.vector import jobs as launch
from tests.experiment.helpers import TINY

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


def test_free_memory_is_what_the_machine_reports() -> None:
    assert 0 < pool.free_bytes() < 2**50


def order(path: Path, **settings: object) -> Order:
    config = Config(**TINY | {"timeout": 1.0} | settings)
    return Order(
        path, config.model_dump(mode="json"), made_with(config, ""), False, "tiny", ("fedmeta",)
    )


def test_a_run_may_send_no_message_for_a_round_its_evaluation_and_a_margin() -> None:
    assert pool.silence(order(Path("run"), timeout=600.0)) == pool.SILENT_SECONDS + 1200.0


@pytest.mark.slow
def test_a_stalled_worker_fails_only_its_own_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "SILENT_SECONDS", 40.0)
    stopped: int | None = None
    ends = {}
    with pool.Pool(2, tmp_path / "log") as workers:
        orders = [order(tmp_path / "stopped", rounds=100_000), order(tmp_path / "sound")]
        began = time.monotonic()
        for job, message in workers.run(orders):
            if job == 0 and message and message[0] == "progress" and stopped is None:
                stopped = workers._workers[0].process.pid
                workers._workers[0].process.send_signal(signal.SIGSTOP)
            if message and message[0] in ("done", "failed"):
                ends[job] = message
        assert workers._workers[0].process.poll() == -signal.SIGKILL
    assert ends[1] == ("done",)
    assert ends[0] == ("failed", "its worker process was silent for 42 s, and was stopped")
    assert time.monotonic() - began >= 42.0


def test_a_message_that_is_cut_short_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "MESSAGE_SECONDS", 1)
    # The first half of a message's length, and then nothing, for ever.
    half = "import os, sys, time; os.write(int(sys.argv[1]), bytes(2)); time.sleep(1e6)"
    monkeypatch.setattr(pool, "_ENTRY", half)
    with pool.Pool(1, tmp_path / "log") as workers:
        (_, started), (job, end) = workers.run([order(tmp_path / "run")])
    assert started is None
    assert (job, end) == (
        0,
        ("failed", "its worker process stalled in the middle of a message, and was stopped"),
    )


def test_a_worker_that_hangs_up_and_does_not_end_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "STOP_SECONDS", 1.0)
    monkeypatch.setattr(
        pool, "_ENTRY", "import os, sys, time; os.close(int(sys.argv[1])); time.sleep(1e6)"
    )
    with pool.Pool(1, tmp_path / "log") as workers:
        *_, (job, end) = workers.run([order(tmp_path / "run")])
    assert (job, end) == (
        0,
        ("failed", "its worker process closed its connection without ending, and was stopped"),
    )


def test_a_worker_that_hung_up_before_its_order_is_not_reported_as_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "STOP_SECONDS", 1.0)
    monkeypatch.setattr(
        pool, "_ENTRY", "import os, sys, time; os.close(int(sys.argv[1])); time.sleep(1e6)"
    )
    worker = pool._Worker(tmp_path / "log")
    assert worker.connection.poll(60)
    worker.give(order(tmp_path / "run"))
    assert worker.receive() == (
        "failed",
        "its worker process closed its connection without ending, and was stopped",
    )
