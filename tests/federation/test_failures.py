"""A client's exception crosses the grid as one line; its traceback stays where it was computed."""

import logging
from dataclasses import replace

import pytest
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from fedmeta.federation import Learner, MetaStrategy, Plan, VectorGrid
from fedmeta.federation.engines.client_app import ClientSide, build_remote_app
from fedmeta.federation.engines.vector.jobs import Executor, InProcess
from fedmeta.federation.engines.vector.pool import ProcessPool
from fedmeta.federation.failures import LONGEST, Failure, failure_of, report, watched
from fedmeta.federation.flower import as_server, new_context
from fedmeta.learning.device import one_thread
from tests.federation.helpers import SINUSOID, train_requests

PLAN = Plan(rounds=1, cohort=3)
BROKEN = replace(SINUSOID, task="tests.federation.helpers:Offline")
Seen = list[tuple[int, int | None, Failure]]


def raising(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    raise KeyError("of a mod")


@pytest.mark.parametrize("where", ["in process", "in a worker", "in a mod", "behind a mod"])
def test_a_traceback_reaches_who_watches_and_is_in_no_reply(where: str) -> None:
    seen: Seen = []
    mods = {"in a mod": [raising], "behind a mod": [lambda m, c, call: call(m, c)]}.get(where)
    with one_thread(), as_server(), watched(lambda *one: seen.append(one)):
        learner = Learner.build(BROKEN)
        executor: Executor = ProcessPool(learner, 1) if where == "in a worker" else InProcess(learner)
        with executor:
            grid = VectorGrid(learner, executor, dict.fromkeys(range(12), mods) if mods else None)
            requests = train_requests(grid, MetaStrategy(learner, PLAN), 1)
            replies = list(grid.send_and_receive(requests))
    said = "KeyError: 'of a mod'" if where == "in a mod" else "OSError: no disk"
    assert [reply.error.reason for reply in replies] == [said] * 3
    assert [(round_, client) for round_, client, _ in seen] == [
        (1, reply.metadata.src_node_id - 2) for reply in replies
    ]
    assert {failure.reason for *_, failure in seen} == {said}
    assert all(failure.traceback.startswith("Traceback") for *_, failure in seen)
    assert len({failure.place for *_, failure in seen}) == 1


def test_a_client_in_its_own_process_logs_its_traceback_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with one_thread(), as_server(), caplog.at_level(logging.WARNING):
        learner = Learner.build(BROKEN)
        strategy = MetaStrategy(learner, PLAN)
        request = train_requests(VectorGrid(learner, InProcess(learner)), strategy, 1)[0]
        request.metadata.__dict__["_message_id"] = "1"
        app = build_remote_app(lambda _: ClientSide(learner))
        reply = app(request, new_context(5, 3, 17))
    assert reply.error.reason == "OSError: no disk"
    assert "round 1, client 3 failed" in caplog.text
    assert 'helpers.py", line' in caplog.text


def test_a_traceback_is_bounded_and_keeps_its_end() -> None:
    try:
        raise ValueError("x" * 2 * LONGEST + " the end")
    except ValueError as error:
        failure = failure_of(error)
    assert len(failure.traceback) == LONGEST
    assert failure.traceback.endswith(" the end\n")
    assert len(failure.reason) == 200


def test_a_watcher_is_optional() -> None:
    report(1, 2, Failure("for nobody"))
