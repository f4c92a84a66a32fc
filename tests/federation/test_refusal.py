"""A refusal has a code, details, and a fault; its sentence and its outcome follow from the code."""

import pickle
from typing import Any

import pytest

from fedmeta.federation import AdmissionGate, GateOptions
from fedmeta.federation.codec import CodecError
from fedmeta.federation.records import ClientRecord
from fedmeta.federation.refusal import Fault, Refusal, RefusalCode, kind_of
from fedmeta.federation.round_plan import Plan
from fedmeta.federation.tally import RoundTally
from tests.federation.test_gate import CODEC, NAMES, content, reply


class Summed:
    """Takes updates, and does nothing with them."""

    def add(self, update: object) -> None:
        pass


class SlowGrid:
    """Knows that client 4 came late and that client 5 was not needed."""

    surplus = frozenset({5})

    def arrival(self, client: int) -> float | None:
        return 99.5 if client == 4 else None


def records() -> dict[int, ClientRecord]:
    """A round of clients 1 to 5: 1 is valid, 2 copies it, 3 is silent; and 9, which was not asked."""
    gate = AdmissionGate(GateOptions(), CODEC, NAMES, asked_tasks=4)
    stamped = content()
    stamped["config"]["round"] = 7
    tally = RoundTally(7, [1, 2, 3, 4, 5], gate, Summed())  # type: ignore[arg-type]
    for client in (1, 2, 9):
        tally.take(client, [reply(stamped)])
    tally.close(Plan(rounds=1, cohort=3, timeout=60), SlowGrid())  # type: ignore[arg-type]
    return {one.client: one for one in tally._records}


def test_refusals_outside_the_gate_have_codes_and_outcomes() -> None:
    found = {
        client: (one.refusal.code.value if one.refusal else None, one.outcome, one.reason)
        for client, one in records().items()
    }
    assert found == {
        1: (None, "admitted", None),
        2: ("copy", "quarantined", "the same update as client 1's"),
        3: ("lost", "lost", "no reply within 60 s"),
        4: ("late", "late", "reply after 99.5 s, not 60 s"),
        5: ("surplus", "surplus", "not needed: 3 answered before"),
        9: ("not_asked", "quarantined", "was not asked in this round"),
    }


def test_a_copy_keeps_its_norm_and_a_norm_that_is_infinite_is_none() -> None:
    one, two = records()[1], records()[2]
    assert two.norm == one.norm
    assert Refusal(RefusalCode.NORM, {"norm": float("inf"), "limit": 5.0}).norm is None
    assert str(Refusal(RefusalCode.NORM, {"norm": float("inf"), "limit": 5.0})) == (
        "norm inf exceeds max_norm 5"
    )


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("client_error", "chance"),
        ("lost", "chance"),
        ("late", "chance"),
        ("not_asked", "chance"),
        ("copy", "chance"),
        ("nan", "chance"),
        ("infinite", "chance"),
        ("surplus", "nobody"),
        ("norm", "client"),
        ("metric_diverged", "chance"),
        ("metric_not_finite", "client"),
        ("wrong_signature", "client"),
        ("unreadable", "client"),
    ],
)
def test_refusals_that_can_hit_an_honest_client_are_not_its_fault(code: str, fault: str) -> None:
    assert RefusalCode(code).fault is Fault(fault)


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (RefusalCode.NAN, {"key": "w"}),
        (RefusalCode.INFINITE, {"key": "head.bias"}),
        (RefusalCode.METRIC_DIVERGED, {"key": "loss", "value": "inf"}),
    ],
)
def test_a_client_that_diverged_is_not_at_fault_and_loses_no_stake(
    code: RefusalCode, details: Any
) -> None:
    refusal = Refusal(code, details)
    assert refusal.non_finite
    assert refusal.code.fault is Fault.CHANCE


def test_shapes_of_other_ranks_and_counts_of_other_types_are_one_kind() -> None:
    """They were several: what differs in brackets or is None is no number."""
    shapes = [
        Refusal(RefusalCode.WRONG_SHAPE, {"key": "w", "found": found, "expected": "(2, 2)"})
        for found in ("(4,)", "(1, 4)", "()")
    ]
    counts = [Refusal(RefusalCode.TASK_COUNT_TYPE, {"value": v}) for v in ("None", "True", "2.5")]
    for group in (shapes, counts):
        assert len({str(one) for one in group}) == 3
        assert len({kind_of(one.code, str(one)) for one in group}) == 1


def test_a_name_with_a_quote_in_it_keeps_its_kind() -> None:
    names = ("'secret'", '"it\'s"')
    said = [str(Refusal(RefusalCode.EXTRA_METRIC, {"key": name})) for name in names]
    assert {kind_of(RefusalCode.EXTRA_METRIC, one) for one in said} == {"unexpected metric …"}


def test_exceptions_of_other_types_are_other_kinds_and_their_texts_are_not_kept() -> None:
    lines = ("OSError: anna.npy", "OSError: ben.npy", "KeyError: 'x'", "no reason given")
    said = [str(Refusal(RefusalCode.CLIENT_ERROR, {"line": line})) for line in lines]
    assert [kind_of(RefusalCode.CLIENT_ERROR, one) for one in said] == [
        "client failed: OSError: …",
        "client failed: OSError: …",
        "client failed: KeyError: …",
        "client failed: …",
    ]


def test_a_label_is_the_sentence_without_values_and_their_quotes() -> None:
    """As reasons were counted before there were codes: run.json and a report keep their words."""
    labels = {code: code.label for code in RefusalCode}
    assert labels[RefusalCode.NAN] == "NaN in …"
    assert labels[RefusalCode.COPY] == "the same update as client …'s"
    assert labels[RefusalCode.NORM] == "norm … exceeds max_norm …"
    assert labels[RefusalCode.SERIALIZATION] == "… is serialized as …, not …"


def test_codes_and_refusals_travel_between_processes() -> None:
    one = Refusal(RefusalCode.LATE, {"arrival": 9.0, "timeout": 5.0})
    assert pickle.loads(pickle.dumps(one)) == one
    assert RefusalCode("late") is RefusalCode.LATE
    assert len({code.label for code in RefusalCode}) == len(RefusalCode), "a label tells its code"


def test_a_refusal_crosses_a_process_whole() -> None:
    error = CodecError(RefusalCode.WRONG_DTYPE, key="w", found="int8", expected="float32")
    copied = pickle.loads(pickle.dumps(error))
    assert type(copied) is CodecError
    assert (copied.refusal, str(copied)) == (error.refusal, str(error))
