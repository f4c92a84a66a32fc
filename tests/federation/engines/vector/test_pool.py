"""A stalled worker process does not block the run."""

import logging
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

from fedmeta.federation import EvaluationSums, Federation, Learner, Plan, RoundRecord, Workload
from fedmeta.federation.engines.vector import jobs as launch
from fedmeta.federation.engines.vector import open_vector, pool
from fedmeta.federation.engines.vector.pool import Worker
from fedmeta.learning import Tensors
from fedmeta.tasks import Population
from fedmeta.training import simulate
from tests.federation.helpers import SINUSOID, Asleep


def test_a_worker_that_stops_reading_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "MESSAGE_SECONDS", 1)
    worker = Worker(Learner.build(SINUSOID))
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
    worker = Worker(Learner.build(SINUSOID))
    try:
        assert worker.becomes_ready(wait=True)
        worker.process.send_signal(signal.SIGSTOP)
        with pytest.raises(pool._Gone):
            worker.receive(time.monotonic() + 0.2)
        assert not worker.alive
    finally:
        worker.stop()


def final_test(
    workload: Workload, state: Tensors, workers: int = 1, each: float = Plan.timeout
) -> dict[int, EvaluationSums]:
    learner = Learner.build(workload)
    with open_vector(learner, workers) as grid:
        return Federation(learner, grid, in_turn=True).test(state, "test", each)


def test_a_client_in_which_a_worker_is_stuck_fails_and_does_not_block_the_test(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool, "JOB_SECONDS", 2.0)
    workload = replace(SINUSOID, task="tests.federation.helpers:Asleep", population=Population(3, 0, 3))
    assert Asleep.CLIENT in workload.population.clients("test")
    state = Learner.build(SINUSOID).template
    with caplog.at_level(logging.WARNING):
        found = final_test(workload, state, workers=2)
    assert sorted(found) == [3, 5]
    assert "evaluation of client 4 is left out: client failed: not computed within 2 s" in caplog.text
    assert "only 2 of the 3 test clients could be evaluated" in caplog.text


def test_a_client_in_which_a_worker_is_stuck_is_quarantined_with_its_chunk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "JOB_SECONDS", 2.0)
    workload = replace(SINUSOID, task="tests.federation.helpers:Asleep")
    records: list[RoundRecord] = []
    plan = Plan(rounds=1, cohort=12, timeout=600.0, quorum=0)
    simulate(workload, plan, observer=lambda record, _: records.append(record), workers=2)
    reasons = {client.client: client.reason for client in records[0].clients}
    assert reasons[Asleep.CLIENT] == "client failed: not computed within 2 s"


def test_workers_start_with_the_first_job_and_again_when_all_have_failed() -> None:
    learner = Learner.build(SINUSOID)
    with pool.ProcessPool(learner, 1) as workers:
        assert workers.workers == []
        assert workers.ready(wait=True)
        [first] = workers.workers
        first.given_up = True
        first.stop()
        assert workers.ready(wait=True)
        assert [one.alive for one in workers.workers] == [True]
        workers.workers[0].stop("died")
        workers.ready(wait=True)
        assert [one.alive for one in workers.workers] == [False]


def test_a_test_that_takes_too_long_leaves_out_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    workload = replace(SINUSOID, task="tests.federation.helpers:Slow")
    with caplog.at_level(logging.WARNING):
        found = final_test(workload, Learner.build(SINUSOID).template, each=0.4)
    # Three clients of a second each, in 1.2 seconds: the third begins too late.
    assert 1 <= len(found) < 3
    assert f"only {len(found)} of the 3 test clients could be evaluated" in caplog.text
