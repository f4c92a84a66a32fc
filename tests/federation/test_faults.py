"""A faulty client only affects its own reply."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedmeta.errors import DivergedError
from fedmeta.federation import Learner, Plan, Workload
from fedmeta.learning import AlgorithmSetup
from fedmeta.tasks import Population
from tests.federation.helpers import (
    PLAN,
    SINUSOID,
    Fragile,
    OddClients,
    assert_same,
    reply_mod,
    run_on_grid,
    without,
)

FAULTY = Fragile.BROKEN


def change_first_array(change: Callable[[np.ndarray], np.ndarray]) -> Mod:
    def spoil(content: RecordDict) -> None:
        arrays = content["arrays"]
        key = next(iter(arrays))
        arrays[key] = Array(change(arrays[key].numpy().copy()))  # type: ignore[index, union-attr, assignment]

    return reply_mod(spoil)


def with_value(value: float) -> Mod:
    return change_first_array(
        lambda array: np.where(np.arange(array.size).reshape(array.shape) == 0, value, array).astype(
            array.dtype
        )
    )


def metric(value: float) -> Mod:
    return reply_mod(lambda content: content["metrics"].update({"num-tasks": value}))


def rename(content: RecordDict) -> None:
    arrays = content["arrays"]
    arrays["renamed"] = arrays.pop(next(iter(arrays)))  # type: ignore[index, union-attr]


def raises(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    raise RuntimeError("out of battery")


def exits(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    raise SystemExit(3)


def nothing(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    return None  # type: ignore[return-value]


def in_anothers_name(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    reply = call_next(message, context)
    reply.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id + 1
    return reply


def undecodable(content: RecordDict) -> None:
    arrays = content["arrays"]
    key = max(arrays, key=lambda name: len(arrays[name].data))  # type: ignore[index, union-attr]
    old = arrays[key]
    arrays[key] = Array(old.dtype, old.shape, old.stype, old.data[:-7])  # type: ignore[index, union-attr, assignment]


FAULTS: list[tuple[str, Mod, str]] = [
    ("nan", with_value(math.nan), "NaN in "),
    ("inf", with_value(math.inf), "Inf in "),
    ("wrong shape", change_first_array(lambda array: array[:-1]), "has shape"),
    ("wrong dtype", change_first_array(lambda array: array.astype(np.float64)), "has dtype float64"),
    ("missing key", reply_mod(lambda c: c["arrays"].pop(next(iter(c["arrays"])))), "is missing"),
    (
        "extra key",
        reply_mod(lambda c: c["arrays"].update(extra=Array(np.zeros(1)))),
        "unexpected key 'extra'",
    ),
    ("renamed key", reply_mod(rename), "is missing"),
    ("huge norm", with_value(1e6), "exceeds max_norm"),
    ("undecodable", reply_mod(undecodable), "bytes long"),
    ("tasks 0", metric(0), "task count 0"),
    ("tasks -1", metric(-1), "task count -1"),
    ("tasks NaN", metric(math.nan), "task count nan"),
    ("tasks 1e9", metric(1e9), "task count 1000000000.0"),
    ("wrong round", reply_mod(lambda c: c["config"].update(round=1000)), "reply to round 1000"),
    ("no content", reply_mod(lambda c: c.clear()), "is missing"),
    ("exception", raises, "client failed: RuntimeError: out of battery"),
    ("exit", exits, "client failed: SystemExit: 3"),
    ("no message", nothing, "client failed: replied with NoneType, not a message"),
    ("another's name", in_anothers_name, "in the name of another"),
]


@pytest.mark.parametrize(
    ("mod", "reason"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS]
)
def test_the_model_is_the_one_of_a_run_without_that_reply(mod: Mod, reason: str) -> None:
    faulty, records = run_on_grid(SINUSOID, PLAN, mods={FAULTY: [mod]})
    lossy, lost = run_on_grid(SINUSOID, PLAN, change=without(FAULTY))
    asked = [record for record in records if FAULTY in {c.client for c in record.clients}]
    assert asked, "the faulty client must be drawn at least once"
    for record in asked:
        client = next(c for c in record.clients if c.client == FAULTY)
        assert not client.admitted
        assert reason in str(client.reason)
        assert (record.admitted, record.quarantined, record.skipped) == (5, 1, False)
    assert_same(faulty.state, lossy.state)
    assert_same(faulty.optimizer, lossy.optimizer)
    assert [r.loss for r in records] == [r.loss for r in lost]


def test_a_client_that_replies_twice_is_set_aside_with_both_replies() -> None:
    def repeat(replies: list[Message]) -> list[Message]:
        return replies + [reply for reply in replies if reply.metadata.src_node_id == FAULTY + 2]

    repeated, records = run_on_grid(SINUSOID, PLAN, change=repeat)
    lossy, _ = run_on_grid(SINUSOID, PLAN, change=without(FAULTY))
    reasons = [c.reason for record in records for c in record.clients if c.client == FAULTY]
    assert reasons
    assert set(reasons) == {"2 replies in one round, none counts"}
    assert_same(repeated.state, lossy.state)


def test_a_client_that_spoils_its_copy_of_the_broadcast_spoils_no_other() -> None:
    def vandal(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        reply = call_next(message, context)
        message.content["config"]["round"] = 99
        for array in message.content["arrays"].values():
            array.data = b""
        message.content.clear()
        return reply

    clean, _ = run_on_grid(SINUSOID, PLAN)
    spoilt, records = run_on_grid(SINUSOID, PLAN, mods={FAULTY: [vandal]})
    assert all(record.admitted == 6 for record in records)
    for key, value in clean.state.items():
        np.testing.assert_allclose(spoilt.state[key], value, rtol=1e-5, atol=1e-6)


def test_a_clients_context_persists_between_rounds() -> None:
    seen: list[int] = []

    def counting(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        counter = context.state.setdefault("counter", ConfigRecord({"n": 0}))
        counter["n"] = int(counter["n"]) + 1  # type: ignore[index, arg-type, call-overload]
        seen.append(counter["n"])  # type: ignore[index, call-overload, arg-type]
        return call_next(message, context)

    everybody = Plan(rounds=3, cohort=12)
    run_on_grid(SINUSOID, everybody, mods={FAULTY: [counting]})
    assert seen == [1, 2, 3]


ODD = Workload(
    task="tests.federation.helpers:OddClients",
    data={},
    population=Population(9),
    setup=AlgorithmSetup("maml", {}, "mlp", {"hidden": [4]}),
    seed=1,
)


def test_clients_whose_data_or_work_fails_are_the_only_ones_that_do() -> None:
    _, records = run_on_grid(ODD, Plan(rounds=2, cohort=9))
    for record in records:
        reasons = {c.client: c.reason for c in record.clients if not c.admitted}
        assert set(reasons) == {OddClients.RAISES, OddClients.BAD_INPUT}
        assert reasons[OddClients.RAISES] == "client failed: OSError: private disk is broken"
        assert str(reasons[OddClients.BAD_INPUT]).startswith("client failed: ")
        assert record.admitted == 7


def test_a_client_that_fails_in_the_stack_changes_no_bit_of_the_others() -> None:
    workload = replace(SINUSOID, task="tests.federation.helpers:Fragile")
    broken, records = run_on_grid(workload, PLAN)
    assert any(record.quarantined for record in records)
    dropped, _ = run_on_grid(SINUSOID, PLAN, change=without(FAULTY))
    assert_same(broken.state, dropped.state)


def test_quorum_missed_leaves_the_model_and_marks_the_round() -> None:
    plan = replace(PLAN, cohort=12, quorum=11, rounds=2)
    start, records = run_on_grid(SINUSOID, plan, mods={c: [raises] for c in (0, 5)})
    assert [record.skipped for record in records] == [True, True]
    assert [(r.admitted, r.quarantined, r.tasks, r.update_norm) for r in records] == [
        (10, 2, 0, 0.0)
    ] * 2
    assert_same(start.state, Learner.build(SINUSOID).init_state())


def test_quorum_met_exactly_is_enough() -> None:
    plan = replace(PLAN, cohort=12, quorum=10, rounds=1)
    _, records = run_on_grid(SINUSOID, plan, mods={c: [raises] for c in (0, 5)})
    assert not records[0].skipped


def test_a_round_without_replies_is_skipped_not_fatal() -> None:
    _, records = run_on_grid(SINUSOID, replace(PLAN, quorum=0), change=lambda replies: [])
    assert all(record.skipped and record.admitted == 0 and math.isnan(record.loss) for record in records)
    assert {c.reason for c in records[0].clients} == {"no reply within 600 s"}


def test_a_cohort_that_is_non_finite_throughout_is_divergence() -> None:
    plan = replace(PLAN, cohort=12)
    with pytest.raises(DivergedError, match=r"round 1 diverged: .*client 0: NaN in .*server.clip_norm"):
        run_on_grid(SINUSOID, plan, mods={client: [with_value(math.nan)] for client in range(12)})


def test_a_state_that_turns_non_finite_is_divergence() -> None:
    server = replace(PLAN, server=PLAN.server.model_copy(update={"optimizer": "SGD", "lr": 3e38}))
    with pytest.raises(DivergedError, match=r"round 1 diverged: the server's step made .* non-finite"):
        run_on_grid(SINUSOID, server)


def test_a_reply_of_a_client_that_was_not_asked_is_set_aside() -> None:
    def from_outside(replies: list[Message]) -> list[Message]:
        asked = {reply.metadata.src_node_id for reply in replies}
        outsider = next(node for node in range(2, 14) if node not in asked)
        replies[0].metadata.__dict__["_src_node_id"] = outsider
        return replies

    _, records = run_on_grid(SINUSOID, PLAN, change=from_outside)
    for record in records:
        reasons = sorted(str(c.reason) for c in record.clients if not c.admitted)
        assert reasons == ["no reply within 600 s", "was not asked in this round"]
