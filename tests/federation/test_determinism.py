"""A run is a function of its workload and plan, whatever the workers, restarts or lost processes."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import psutil
import pytest

from fedmeta.errors import ConfigError
from fedmeta.federation import (
    Federation,
    Learner,
    Plan,
    RoundRecord,
    ServerOptions,
    Snapshot,
    VectorGrid,
)
from fedmeta.federation.engines.vector.jobs import InProcess, TrainJob, compute
from fedmeta.federation.engines.vector.pool import Auto, ProcessPool
from fedmeta.federation.flower import as_server
from fedmeta.learning.device import one_thread
from fedmeta.training import evaluate, simulate
from tests import processes
from tests.federation.engines.vector.test_stacked import CONV
from tests.federation.helpers import SINUSOID, assert_same, train

PLAN = Plan(
    rounds=6,
    cohort=10,
    server=ServerOptions(lr=0.01, schedule="cosine", clip_norm=5.0),
    evaluate_every=2,
)
# So many tasks of each client that a cohort makes several chunks.
WORKLOAD = replace(SINUSOID, tasks_per_client=40)


def run(workers: int = 1, start: Snapshot | None = None) -> tuple[list[RoundRecord], list[Snapshot]]:
    records: list[RoundRecord] = []
    snapshots: list[Snapshot] = []

    def observe(record: RoundRecord, snapshot: Snapshot) -> None:
        records.append(record)
        snapshots.append(snapshot)

    final = simulate(WORKLOAD, PLAN, observer=observe, start=start, workers=workers)
    assert_same(final.state, snapshots[-1].state)
    return records, snapshots


@pytest.fixture(scope="module")
def undisturbed() -> tuple[list[RoundRecord], list[Snapshot]]:
    return run()


def assert_same_run(
    one: tuple[list[RoundRecord], list[Snapshot]], other: tuple[list[RoundRecord], list[Snapshot]]
) -> None:
    assert one[0] == other[0]
    for ours, theirs in zip(one[1], other[1], strict=True):
        assert ours.round == theirs.round
        assert_same(ours.state, theirs.state)
        assert_same(ours.optimizer, theirs.optimizer)


def test_a_cohort_makes_several_chunks() -> None:
    assert Learner.build(WORKLOAD).chunk_clients < PLAN.cohort


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_same_bytes_for_any_number_of_workers(
    workers: int, undisturbed: tuple[list[RoundRecord], list[Snapshot]]
) -> None:
    assert_same_run(run(workers), undisturbed)


@pytest.mark.parametrize("rounds", [1, 3, 5])
def test_continuing_from_a_snapshot_equals_the_uninterrupted_run(
    rounds: int, undisturbed: tuple[list[RoundRecord], list[Snapshot]]
) -> None:
    records, snapshots = undisturbed
    assert_same_run(run(start=snapshots[rounds - 1]), (records[rounds:], snapshots[rounds:]))


def test_continuing_a_finished_run_changes_nothing(
    undisturbed: tuple[list[RoundRecord], list[Snapshot]],
) -> None:
    end = undisturbed[1][-1]
    again = simulate(WORKLOAD, PLAN, start=end, observer=lambda *_: pytest.fail("no round is left"))
    assert again.round == end.round
    assert_same(again.state, end.state)


def test_convolutions_have_the_same_bytes_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    # One that Python was started for, as a user's are.
    monkeypatch.setattr("fedmeta.federation.engines.vector.jobs.subprocess", subprocess)
    learner = Learner.build(CONV)
    state, job = learner.init_state(), TrainJob(1, tuple(range(6)))
    with one_thread(), ProcessPool(learner, 1) as pool:
        [theirs] = pool.run(state, [job], time.monotonic() + 120)
        ours = compute(learner, state, job)
    assert_same(ours.updates, theirs.updates)  # type: ignore[union-attr]
    assert_same(ours.metrics, theirs.metrics)  # type: ignore[union-attr]


def test_evaluation_is_the_same_in_workers() -> None:
    state = Learner.build(WORKLOAD).init_state()
    assert evaluate(WORKLOAD, state, "test", workers=2) == evaluate(WORKLOAD, state, "test")


def test_a_killed_worker_costs_nothing_but_time(
    undisturbed: tuple[list[RoundRecord], list[Snapshot]], caplog: pytest.LogCaptureFixture
) -> None:
    records: list[RoundRecord] = []
    snapshots: list[Snapshot] = []
    with one_thread(), as_server():
        learner = Learner.build(WORKLOAD)
        with ProcessPool(learner, 2) as pool:

            def observe(record: RoundRecord, snapshot: Snapshot) -> None:
                records.append(record)
                snapshots.append(snapshot)
                # One after the other, until this process does all the work.
                if record.round in (2, 4):
                    os.kill(pool.workers[record.round // 4].process.pid, signal.SIGKILL)

            train(Federation(learner, VectorGrid(learner, pool)), PLAN, observe)
    assert_same_run((records, snapshots), undisturbed)
    assert [
        record.message.split(" ", 3)[3] for record in caplog.records if "worker" in record.message
    ] == ["died; its clients are computed elsewhere"] * 2


def test_a_worker_killed_in_the_middle_of_a_round_costs_nothing_either() -> None:
    with one_thread():
        learner = Learner.build(WORKLOAD)
        jobs = [TrainJob(1, (client,)) for client in range(8)]
        state = learner.init_state()
        expected = [compute(learner, state, job) for job in jobs]
        with ProcessPool(learner, 2) as pool:
            outcomes = []
            for outcome in pool.run(state, jobs, time.monotonic() + 120):
                outcomes.append(outcome)
                if len(outcomes) == 2:
                    pool.workers[0].process.kill()
    for ours, theirs in zip(expected, outcomes, strict=True):
        assert_same(ours.updates, theirs.updates)  # type: ignore[union-attr]


def test_auto_moves_to_workers_without_changing_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmeta.federation.engines.vector.pool.WORTHWHILE_SECONDS", 0.0)
    monkeypatch.setattr("fedmeta.federation.engines.vector.pool.available_cores", lambda: 2)
    with one_thread():
        learner = Learner.build(WORKLOAD)
        jobs = [TrainJob(1, (client,)) for client in range(8)]
        state = learner.init_state()
        expected = [compute(learner, state, job) for job in jobs]
        with Auto(learner, rounds=3) as auto:
            first = list(auto.run(state, jobs, time.monotonic() + 120))
            assert auto.pool is not None
            auto.pool.ready(wait=True)
            second = list(auto.run(state, jobs, time.monotonic() + 120))
    for ours, one, two in zip(expected, first, second, strict=True):
        assert_same(ours.updates, one.updates)  # type: ignore[union-attr]
        assert_same(ours.updates, two.updates)  # type: ignore[union-attr]


def test_auto_stays_in_this_process_when_workers_would_not_pay() -> None:
    learner = Learner.build(SINUSOID)
    with Auto(learner, rounds=2) as auto:
        for _ in range(2):
            list(
                auto.run(
                    learner.init_state(), [TrainJob(1, (c,)) for c in range(4)], time.monotonic() + 60
                )
            )
        assert auto.pool is None


def test_no_reply_is_awaited_past_the_deadline() -> None:
    learner = Learner.build(SINUSOID)
    jobs = [TrainJob(1, (client,)) for client in range(4)]
    assert list(InProcess(learner).run(learner.init_state(), jobs, time.monotonic() - 1)) == []
    with ProcessPool(learner, 1) as pool:
        assert list(pool.run(learner.init_state(), jobs, time.monotonic() - 1)) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_no_process_is_left_behind_however_the_run_ends(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[Any]] = []

    class Noted(processes.Popen):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            started.append(self)

    def observe(record: RoundRecord, snapshot: Snapshot) -> None:
        assert [psutil.pid_exists(process.pid) for process in started] == [True, True]
        raise error

    monkeypatch.setattr(processes, "Popen", Noted)
    with pytest.raises(error):
        simulate(WORKLOAD, PLAN, observer=observe, workers=2)
    assert not any(psutil.pid_exists(process.pid) for process in started)


def test_workers_end_when_their_parent_is_killed() -> None:
    script = (
        "import time\n"
        "from fedmeta.federation import Learner\n"
        "from tests.federation.helpers import SINUSOID\n"
        "from fedmeta.federation.engines.vector.pool import ProcessPool\n"
        "pool = ProcessPool(Learner.build(SINUSOID), 2)\n"
        "pool.ready(wait=True)\n"
        "print(*[worker.process.pid for worker in pool.workers], flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script]
    with processes.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(workers) == 2
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


def test_a_worker_that_cannot_load_its_data_is_reported_and_replaced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    learner = Learner.build(SINUSOID)
    unloadable = replace(SINUSOID, data={"shots": -1})
    learner.workload = unloadable
    with ProcessPool(learner, 1) as pool:
        pool.start()
        learner.workload = SINUSOID
        [outcome] = pool.run(learner.init_state(), [TrainJob(1, (0,))], time.monotonic() + 120)
    assert outcome.clients == [0]  # type: ignore[union-attr]
    assert any("could not start: ConfigError: data.shots" in record.message for record in caplog.records)


def test_a_workload_that_cannot_be_built_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown task 'sinusiod': did you mean 'sinusoid'"):
        simulate(replace(WORKLOAD, task="sinusiod"), PLAN, observer=lambda *_: None)
