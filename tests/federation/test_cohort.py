"""Oversampling: the first valid replies count, and every client keeps its chance."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from flwr.app import Message

from fedmeta.errors import ConfigError
from fedmeta.federation import Learner, MetaStrategy, Plan, RoundRecord, VectorGrid
from fedmeta.federation.cohort import Receiver, requests, sample_cohort
from fedmeta.federation.engines.vector.jobs import InProcess
from fedmeta.federation.flower import as_server
from fedmeta.learning.device import one_thread
from tests.federation.helpers import PLAN, SINUSOID, reply_mod, run_on_grid

WIDE = replace(PLAN, oversample=3)


def outcomes(record: RoundRecord) -> dict[int, str]:
    return {client.client: client.outcome for client in record.clients}


def test_of_those_asked_the_cohort_is_taken_and_the_rest_is_surplus() -> None:
    _, records = run_on_grid(SINUSOID, WIDE)
    for record in records:
        assert (record.cohort, record.admitted, record.surplus, record.quarantined) == (9, 6, 3, 0)
        assert sorted(outcomes(record)) == sample_cohort(SINUSOID.seed, record.round, 12, 9)
        reasons = {c.reason for c in record.clients if c.outcome == "surplus"}
        assert reasons == {"not needed: 6 answered before"}


def test_those_that_answer_at_once_are_taken_in_no_order_of_their_ids() -> None:
    _, records = run_on_grid(SINUSOID, replace(WIDE, rounds=40))
    taken = [c.client for record in records for c in record.clients if c.admitted]
    # If the lowest ids won, client 11 of 12 would hardly ever be among the first 6 of 9.
    assert taken.count(11) > 40 * 6 / 12 / 2


def test_a_reply_that_will_be_refused_does_not_count_towards_the_cohort() -> None:
    spoilt = {client: [reply_mod(lambda content: content.clear())] for client in (0, 1)}
    _, records = run_on_grid(SINUSOID, replace(WIDE, cohort=9), mods=spoilt)
    for record in records:
        assert (record.admitted, record.quarantined, record.surplus) == (9, 2, 1)


def test_without_surplus_clients_the_model_is_that_of_all_who_answered() -> None:
    _, records = run_on_grid(SINUSOID, replace(WIDE, cohort=9, rounds=1), change=lambda sent: sent[:5])
    (record,) = records
    assert (record.admitted, record.lost, record.surplus) == (5, 7, 0)


def test_more_than_the_population_cannot_be_asked() -> None:
    with one_thread(), as_server(), pytest.raises(ConfigError) as caught:
        MetaStrategy(Learner.build(SINUSOID), replace(PLAN, oversample=7))
    assert str(caught.value) == (
        "cohort = 6 + oversample = 7 is larger than the population of 12 training clients"
    )


class RealTime:
    """A grid without simulated time, that hands over replies when it is asked for them, in turns."""

    def __init__(self, grid: VectorGrid, turns: list[set[int]]) -> None:
        self.grid = grid
        self.turns = turns
        self.waiting: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        sent = list(messages)
        ids = list(self.grid.push_messages(sent))
        self.waiting = dict(zip(ids, sent, strict=True))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        now = self.turns.pop(0) if self.turns else set()
        wanted = [i for i in message_ids if self.waiting[i].metadata.dst_node_id - 2 in now]
        return list(self.grid.pull_messages(wanted))


def receive(turns: list[set[int]], enough: int, timeout: float = 5.0) -> tuple[list[int], Any]:
    """Ask clients 0 to 5; return those whose replies are kept, and the surplus ones."""
    with one_thread(), as_server():
        learner = Learner.build(SINUSOID)
        grid = VectorGrid(learner, InProcess(learner))
        strategy = MetaStrategy(learner, Plan(rounds=1, cohort=6))
        strategy.connect(grid)
        asked = requests("train", 1, strategy.arrays, range(6), grid)
        receiver = Receiver(RealTime(grid, turns), grid, 1, timeout, seed=0)  # type: ignore[arg-type]
        kept = receiver.first_valid(asked, enough, lambda client, sent: sent[0].has_content())
        return sorted(reply.metadata.src_node_id - 2 for reply in kept), receiver.surplus


def test_in_real_time_the_wait_ends_once_there_are_enough_replies() -> None:
    kept, surplus = receive([{4}, set(), {1, 5}], enough=3, timeout=60.0)
    assert kept == [1, 4, 5]
    assert surplus == {0, 2, 3}


def test_in_real_time_one_poll_may_return_more_than_enough() -> None:
    kept, surplus = receive([{4}, {0, 1, 5}], enough=3)
    assert kept == [0, 1, 4]
    assert surplus == {2, 3, 5}


def test_in_real_time_the_deadline_ends_the_wait() -> None:
    kept, surplus = receive([{4}], enough=3, timeout=0.3)
    assert kept == [4]
    assert surplus == frozenset()
