"""A reply that differs from the request in any way is quarantined with its reason; nothing raises."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmeta.federation import AdmissionGate, GateOptions
from fedmeta.federation.client import training_replies
from fedmeta.federation.codec import Codec
from fedmeta.federation.flower import LazyReply, as_server, stamp
from fedmeta.federation.gate import Update
from fedmeta.federation.learner import CohortUpdate
from fedmeta.federation.refusal import Refusal, RefusalCode
from fedmeta.tasks import TaskSpec, build_objective

CLIENT, ROUND = 3, 8
CODEC = Codec({"w": torch.zeros(2, 2), "b": torch.zeros(1)})
NAMES = build_objective(TaskSpec("classification", (1,), 2)).training_measures
VALUES = {"w": np.array([[1, 2], [3, 4]], np.float32), "b": np.array([5], np.float32)}

Spoil = Callable[[RecordDict], object]


def gate(**options: float) -> AdmissionGate:
    return AdmissionGate(GateOptions(**options), CODEC, NAMES, asked_tasks=4)


def content() -> RecordDict:
    metrics: dict[str, int | float] = {"num-tasks": 4, **dict.fromkeys(NAMES, 0.5)}
    return RecordDict(
        {
            "arrays": ArrayRecord({key: Array(value) for key, value in VALUES.items()}),
            "metrics": MetricRecord(metrics),  # type: ignore[arg-type]
            "config": ConfigRecord({"round": ROUND}),
        }
    )


def reply(body: RecordDict | Error) -> Message:
    with as_server():
        request = Message(RecordDict(), 5, "train")
        stamp(request, "1")
        return Message(body, reply_to=request)


def judge(spoil: Spoil | None = None, **options: float) -> Update | Refusal:
    body = content()
    if spoil:
        spoil(body)
    return gate(**options).check(CLIENT, ROUND, [reply(body)])


def put(record: str, key: str, value: object) -> Spoil:
    # Past Flower's own checks, which a client on another machine need not run.
    return lambda body: body[record].__dict__["_data"].update({key: value})


def array(values: object, key: str = "w") -> Spoil:
    return put("arrays", key, Array(np.asarray(values)))


def float32(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def declared_only(body: RecordDict) -> None:
    body["arrays"]["w"] = Array("float32", (2, 2), "numpy.ndarray", Array(np.zeros(4, np.float32)).data)


CASES: list[tuple[str, str, Spoil, str]] = [
    ("nan", "nan", array(float32([1, math.nan], [0, 0])), "NaN in 'w'"),
    ("inf", "infinite", array(float32([1, 0], [-math.inf, 0])), "Inf in 'w'"),
    ("nan in the last tensor", "nan", array(float32([math.nan])[0], "b"), "NaN in 'b'"),
    (
        "declared shape",
        "wrong_shape",
        array(np.zeros((4, 1), np.float32)),
        "'w' has shape (4, 1), not (2, 2)",
    ),
    ("actual shape", "held_shape", declared_only, "'w' holds shape (4,), not (2, 2) as declared"),
    ("dtype", "wrong_dtype", array(np.zeros((2, 2))), "'w' has dtype float64, not float32"),
    ("missing key", "missing_key", lambda b: b["arrays"].pop("b"), "'b' is missing"),
    ("extra key", "extra_key", array([1.0], "c"), "unexpected key 'c'"),
    ("huge norm", "norm", array(float32([1e4, 0], [0, 0])), "norm 1e+04 exceeds max_norm 1000"),
    (
        "norm beyond float32",
        "norm",
        array(float32([3e38, 3e38], [0, 0])),
        "norm 4.243e+38 exceeds max_norm 1000",
    ),
    (
        "undecodable",
        "undecodable",
        put("arrays", "w", Array("float32", (2, 2), "numpy.ndarray", b"?")),
        "'w' cannot be decoded",
    ),
    ("no array at all", "unreadable", put("arrays", "w", "text"), "unreadable reply (AttributeError)"),
    ("tasks 0", "task_count", put("metrics", "num-tasks", 0), "task count 0 is not within 1 and 4"),
    ("tasks -1", "task_count", put("metrics", "num-tasks", -1), "task count -1 is not within 1 and 4"),
    ("tasks 5", "task_count", put("metrics", "num-tasks", 5), "task count 5 is not within 1 and 4"),
    (
        "tasks NaN",
        "task_count_type",
        put("metrics", "num-tasks", math.nan),
        "task count nan is not an integer",
    ),
    (
        "tasks 1e9",
        "task_count_type",
        put("metrics", "num-tasks", 1e9),
        "task count 1000000000.0 is not an integer",
    ),
    (
        "tasks 10**9",
        "task_count",
        put("metrics", "num-tasks", 10**9),
        "task count 1000000000 is not within 1 and 4",
    ),
    (
        "tasks bool",
        "task_count_type",
        put("metrics", "num-tasks", True),
        "task count True is not an integer",
    ),
    (
        "no tasks",
        "no_task_count",
        lambda b: b["metrics"].pop("num-tasks"),
        "metric 'num-tasks' is missing",
    ),
    ("loss NaN", "metric_diverged", put("metrics", "loss", math.nan), "metric 'loss' diverged: nan"),
    (
        "no loss",
        "metric_type",
        lambda b: b["metrics"].pop("loss"),
        "metric 'loss' is None, not a number",
    ),
    (
        "accuracy 7",
        "metric_range",
        put("metrics", "accuracy", 7.0),
        "metric 'accuracy' is 7, not within 0 and 1",
    ),
    ("extra metric", "extra_metric", put("metrics", "secret", 1.0), "unexpected metric 'secret'"),
    ("wrong round", "wrong_round", put("config", "round", ROUND - 1), "reply to round 7, not 8"),
    ("round as bool", "wrong_round", put("config", "round", True), "reply to round True, not 8"),
    ("no round", "wrong_round", lambda b: b["config"].pop("round"), "reply to round None, not 8"),
    (
        "no arrays",
        "missing_record",
        lambda b: b.pop("arrays"),
        "'arrays' is missing or not of type ArrayRecord",
    ),
    (
        "arrays of another kind",
        "missing_record",
        lambda b: b.update(arrays=ConfigRecord()),
        "'arrays' is missing or not of type ArrayRecord",
    ),
    (
        "extra record",
        "extra_record",
        lambda b: b.update(more=ConfigRecord()),
        "unexpected record 'more'",
    ),
    (
        "pickled",
        "serialization",
        put("arrays", "w", Array("float32", (2, 2), "pickle", b"?")),
        "'w' is serialized as 'pickle', not 'numpy.ndarray'",
    ),
    (
        "declared dtype",
        "held_dtype",
        put(
            "arrays",
            "w",
            Array("float32", (2, 2), "numpy.ndarray", Array(np.zeros((2, 2), np.int8)).data),
        ),
        "'w' holds dtype int8, not float32 as declared",
    ),
    (
        "a byte short",
        "wrong_length",
        put("arrays", "w", Array("float32", (2, 2), "numpy.ndarray", Array(VALUES["w"]).data[:-1])),
        "'w' is 143 bytes long, not 144",
    ),
    ("extra config", "extra_config", put("config", "note", "hello"), "unexpected config 'note'"),
    ("empty", "missing_record", lambda b: b.clear(), "'arrays' is missing or not of type ArrayRecord"),
]


def test_a_sound_reply_is_admitted_with_its_exact_values() -> None:
    verdict = judge()
    assert isinstance(verdict, Update)
    np.testing.assert_array_equal(verdict.vector, [1, 2, 3, 4, 5])
    assert (verdict.client, verdict.tasks) == (CLIENT, 4)
    assert verdict.norm == pytest.approx(math.sqrt(55))
    assert verdict.metrics == dict.fromkeys(NAMES, 0.5)


@pytest.mark.parametrize(
    ("code", "spoil", "reason"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_corrupt_reply_is_refused_with_its_code_and_reason(
    code: str, spoil: Spoil, reason: str
) -> None:
    verdict = judge(spoil)
    assert isinstance(verdict, Refusal)
    assert verdict.code == code
    assert str(verdict) == verdict.reason == reason


def test_only_nan_and_inf_count_as_non_finite() -> None:
    signs = {name for name, _, spoil, _ in CASES if getattr(judge(spoil), "non_finite", False)}
    assert signs == {"nan", "inf", "nan in the last tensor", "loss NaN"}


def test_of_two_replies_neither_counts() -> None:
    verdict = gate().check(CLIENT, ROUND, [reply(content()), reply(content())])
    assert verdict == Refusal(RefusalCode.SEVERAL_REPLIES, {"count": 2})
    assert str(verdict) == "2 replies in one round, none counts"


def test_an_error_reply_is_quarantined_with_its_first_line() -> None:
    failed = reply(Error(2, "ValueError: no disk\nTraceback ..."))
    refusal = gate().check(CLIENT, ROUND, [failed])
    assert refusal == Refusal(RefusalCode.CLIENT_ERROR, {"line": "ValueError: no disk"})
    assert str(refusal) == "client failed: ValueError: no disk"


def test_of_a_long_line_of_a_client_240_characters_are_kept() -> None:
    failed = reply(Error(2, "ValueError: " + "x" * 999))
    said = str(gate().check(CLIENT, ROUND, [failed]))
    assert said == "client failed: ValueError: " + "x" * (240 - len("client failed: ValueError: "))


def test_a_message_without_content_or_error_is_quarantined() -> None:
    hollow = reply(content())
    hollow.__dict__["_content"] = None
    assert gate().check(CLIENT, ROUND, [hollow]) == Refusal(RefusalCode.NO_CONTENT)


def test_bounds_come_from_the_options() -> None:
    assert isinstance(judge(array(float32([1e4, 0], [0, 0])), max_norm=1e5), Update)
    assert isinstance(judge(put("metrics", "num-tasks", 9), max_tasks=9), Update)
    assert isinstance(judge(max_norm=7.0), Refusal)


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.lists(st.floats(), max_size=2),
)


@given(st.sampled_from(["arrays", "metrics", "config"]), st.data())
@settings(max_examples=60, deadline=None)
def test_a_record_of_any_content_raises_nothing(record: str, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from([*content()[record], "other"]))
    verdict = judge(put(record, key, data.draw(ANYTHING)))
    if isinstance(verdict, Refusal):
        assert verdict.reason
        assert "\n" not in verdict.reason


STACK = torch.tensor(
    [[1, 2, 3, 4, 5], [1, math.nan, 0, 0, 0], [0, 0, 0, 0, -math.inf], [3e38, 3e38, 0, 0, 0], [0] * 5]
)
"""Updates of five clients; three of them are not finite or too large."""


def stacked(
    loss: float = 0.5, tasks: int = 4, round_: int = ROUND, dtype: torch.dtype = torch.float32
) -> list[LazyReply]:
    """Replies of five clients computed together, as this process's grid sends them."""
    updates = {"w": STACK[:, :4].reshape(5, 2, 2).to(dtype), "b": STACK[:, 4:].to(dtype)}
    metrics = {name: torch.tensor([0.5, 0.5, 0.5, 0.5, loss], dtype=torch.float64) for name in NAMES}
    update = CohortUpdate([0, 1, 2, 3, 4], updates, metrics, tasks)
    request = reply(RecordDict())
    return [LazyReply(row, reply_to=request) for row in training_replies(CODEC, update, round_)]


def seen(verdict: Update | Refusal) -> object:
    """Everything a verdict says, with the buffer's bits."""
    if isinstance(verdict, Refusal):
        return verdict.code, str(verdict), verdict.non_finite
    return verdict.vector.tobytes(), verdict.norm, verdict.fingerprint, verdict.tasks, verdict.metrics


@pytest.mark.parametrize(
    "change",
    [{}, {"loss": math.nan}, {"loss": -1.0}, {"tasks": 5}, {"round_": 7}, {"dtype": torch.float64}],
    ids=str,
)
def test_a_row_of_a_stack_is_judged_as_the_records_that_it_stands_for(change: dict[str, float]) -> None:
    for row in range(5):
        lazy = stacked(**change)[row]  # type: ignore[arg-type]
        written = reply(stacked(**change)[row].content)  # type: ignore[arg-type]
        one, other = (gate().check(CLIENT, ROUND, [sent]) for sent in (lazy, written))
        assert seen(one) == seen(other)
        if change != {"dtype": torch.float64}:
            assert lazy.unwritten is not None  # no records were written


def test_each_bad_row_of_a_stack_is_refused_alone() -> None:
    verdicts = [gate().check(client, ROUND, [sent]) for client, sent in enumerate(stacked())]
    assert [isinstance(verdict, Update) for verdict in verdicts] == [True, False, False, False, True]
    assert [str(verdict) for verdict in verdicts[1:4]] == [
        "NaN in 'w'",
        "Inf in 'b'",
        "norm 4.243e+38 exceeds max_norm 1000",
    ]
    assert isinstance(verdicts[0], Update)
    assert verdicts[0].norm == pytest.approx(math.sqrt(55))


def test_what_a_reader_changes_in_a_reply_of_a_stack_counts() -> None:
    sent = stacked()[0]
    sent.content["arrays"]["b"] = Array(float32([math.nan])[0])
    assert str(gate().check(CLIENT, ROUND, [sent])) == "NaN in 'b'"
    replaced = stacked()[0]
    replaced.content = RecordDict()
    assert seen(gate().check(CLIENT, ROUND, [replaced])) == seen(
        gate().check(CLIENT, ROUND, [reply(RecordDict())])
    )


def test_a_stack_for_another_state_is_refused_by_its_records() -> None:
    other = AdmissionGate(GateOptions(), Codec({"w": torch.zeros(2, 2)}), NAMES, asked_tasks=4)
    assert str(other.check(CLIENT, ROUND, stacked()[:1])) == "unexpected key 'b'"
