"""A slow reply delays neither the others nor the round's deadline."""

import threading
import time
from collections.abc import Iterable

import pytest
from flwr.app import Message, RecordDict

from fedmeta.federation import Federation, Learner, Plan, RoundRecord, VectorGrid
from fedmeta.federation.engines.node_directory import NodeDirectory
from fedmeta.federation.engines.timeouts import PULLS, TimeoutGrid
from fedmeta.federation.engines.vector.jobs import InProcess
from fedmeta.federation.flower import as_server
from fedmeta.learning.device import one_thread
from tests.federation.helpers import SINUSOID, train


class Held(VectorGrid):
    """Does not come back from a pull of training replies until it is told to, as over half a reply."""

    def __init__(self) -> None:
        learner = Learner.build(SINUSOID)
        super().__init__(learner, InProcess(learner))
        self.go_on = threading.Event()

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        found = list(super().pull_messages(message_ids))
        if any(reply.metadata.message_type == "train" for reply in found):
            # Longer than a test may last.
            self.go_on.wait(3600)
        return found


def test_a_stalled_pull_delays_the_round_only_until_its_deadline() -> None:
    records: list[RoundRecord] = []
    with one_thread(), as_server():
        grid = Held()
        directory = NodeDirectory(TimeoutGrid(grid), len(SINUSOID.population))
        plan = Plan(rounds=1, cohort=4, quorum=1, timeout=1.0)
        federation = Federation(Learner.build(SINUSOID), directory)
        train(federation, plan, lambda record, _: records.append(record))
        # Flower's own grid would stand still for as long as its pull does.
        grid.go_on.set()
    assert [(one.admitted, one.lost, one.skipped) for one in records] == [(0, 4, True)]


def test_late_replies_go_to_the_call_that_asks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmeta.federation.engines.timeouts.PULL_SECONDS", 0.05)
    with one_thread(), as_server():
        grid = VectorGrid(learner := Learner.build(SINUSOID), InProcess(learner))
        go_on = threading.Event()

        class Late(VectorGrid):
            def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
                found = list(grid.pull_messages(message_ids))
                go_on.wait(60)
                return found

        nodes = list(grid.get_node_ids())[:2]
        one, other = grid.push_messages([Message(RecordDict(), node, "query") for node in nodes])
        patient = TimeoutGrid(Late(learner, InProcess(learner)))
        assert patient.pull_messages({one}) == []
        go_on.set()
        # The pull of the first may bring its reply while the second is asked for.
        came: dict[str, list[str]] = {one: [], other: []}
        deadline = time.monotonic() + 30
        while not all(came.values()) and time.monotonic() < deadline:
            for message_id in (other, one):
                replies = patient.pull_messages({message_id})
                came[message_id] += [reply.metadata.reply_to_message_id for reply in replies]
    assert came == {one: [one], other: [other]}


def test_an_exception_in_a_pull_is_raised_at_the_next_one() -> None:
    class Broken(Held):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            raise ConnectionError("the link is down")

    patient = TimeoutGrid(Broken())
    with pytest.raises(ConnectionError, match="the link is down"):
        patient.pull_messages({"1"})


def test_a_stalled_reply_does_not_delay_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is never pulled twice at once: the SuperLink gives its arrays to one of them alone."""
    monkeypatch.setattr("fedmeta.federation.engines.timeouts.PULL_SECONDS", 0.05)
    with one_thread(), as_server():
        grid = VectorGrid(learner := Learner.build(SINUSOID), InProcess(learner))
        go_on = threading.Event()
        pulls: list[set[str]] = []

        class Half(VectorGrid):
            def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
                pulls.append(set(message_ids))
                if slow in set(message_ids):
                    go_on.wait(60)
                return list(grid.pull_messages(message_ids))

        nodes = list(grid.get_node_ids())[:4]
        slow, *others = grid.push_messages([Message(RecordDict(), node, "query") for node in nodes])
        patient = TimeoutGrid(Half(learner, InProcess(learner)))
        came: set[str] = set()
        for _ in range(20):
            left = {slow, *others} - came
            came |= {reply.metadata.reply_to_message_id for reply in patient.pull_messages(left)}
        assert came == set(others)
        go_on.set()
        assert len([part for part in pulls if slow in part]) == 1


def test_only_so_many_pulls_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmeta.federation.engines.timeouts.PULL_SECONDS", 0.01)
    begun: list[set[str]] = []

    class Waiting(Held):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            begun.append(set(message_ids))
            self.go_on.wait(60)
            return []

    grid = Waiting()
    patient = TimeoutGrid(grid)
    asked = {str(number) for number in range(3 * PULLS)}
    for _ in range(5):
        assert patient.pull_messages(asked) == []
    grid.go_on.set()
    assert len(begun) == PULLS
    assert set.union(*begun) == asked
