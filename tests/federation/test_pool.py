"""A worker process that stands still holds nobody for ever."""

import signal
import time

import numpy as np
import pytest

from fedmeta.federation.vector import launch, pool
from fedmeta.federation.vector.pool import Worker
from tests.federation.helpers import SINUSOID


def test_a_worker_that_stops_reading_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "MESSAGE_SECONDS", 1)
    worker = Worker(SINUSOID.build())
    try:
        assert worker.becomes_ready(wait=True)
        worker.process.send_signal(signal.SIGSTOP)
        # Far more than the pair of sockets holds.
        worker.send({"state": np.zeros(2**24)})
        assert not worker.alive
        assert worker.process.poll() == -signal.SIGKILL
    finally:
        worker.stop()


def test_a_worker_that_is_silent_is_stopped_at_the_deadline() -> None:
    worker = Worker(SINUSOID.build())
    try:
        assert worker.becomes_ready(wait=True)
        worker.process.send_signal(signal.SIGSTOP)
        with pytest.raises(pool._Gone):
            worker.receive(time.monotonic() + 0.2)
        assert not worker.alive
    finally:
        worker.stop()
