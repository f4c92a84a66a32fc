"""How the server treats each tensor of an update: checks, averaging and stepping."""

import numpy as np
import pytest
import torch
from flwr.app import Message, RecordDict

from fedmeta.federation import AdmissionGate, GateOptions, Update
from fedmeta.federation.aggregation import AggregationOptions
from fedmeta.federation.client import training_replies
from fedmeta.federation.codec import Codec
from fedmeta.federation.flower import as_server
from fedmeta.federation.learner import CohortUpdate
from fedmeta.federation.refusal import Refusal
from fedmeta.federation.update_keys import UpdateKeys
from fedmeta.learning import KeyRule, LocalWork
from fedmeta.learning.algorithms import FedAvg
from tests.learning.cases import CASES, make_learner, make_tasks

STATE = {"a": torch.zeros(2), "b": torch.zeros(1), "c": torch.zeros(1), "hidden": torch.zeros(1)}
CODEC = Codec(STATE)
RULES = {
    "b": KeyRule("add", "clients"),
    "c": KeyRule("add", "population"),
    "hidden": KeyRule(checked=False),
}
UPDATES = [
    (1, [1.0, 2.0, 6.0, 6.0, 8.0]),
    (3, [5.0, 6.0, 2.0, 2.0, 4.0]),
    (4, [9.0, 0.0, 1.0, 1.0, 0.0]),
]
"""Tasks, and the values of a, a, b, c and hidden, of three clients."""


class Kinds(FedAvg):
    def key_rule(self, key: str) -> KeyRule:
        return RULES.get(key, KeyRule())


def keys() -> UpdateKeys:
    plain = make_learner("fedavg", CASES["sinusoid-mlp"])
    return UpdateKeys(Kinds(plain.options, plain.model, plain.spec), CODEC, population=12)


def aggregate(rule: str) -> list[float]:
    aggregator = keys().aggregator(AggregationOptions(rule=rule), 1, print)
    vector = np.empty(5)
    for client, (tasks, values) in enumerate(UPDATES):
        # The gate's one vector is used again for each reply.
        vector[:] = values
        aggregator.add(Update(client, tasks, vector, 0.0, {}))
    found: list[float] = aggregator.result().tolist()
    return found


def test_the_mean_counts_tasks_clients_or_the_whole_population() -> None:
    """a: (1 + 15 + 36) / 8 and (2 + 18 + 0) / 8; b: 9 / 3; c: 9 / 12; hidden: (8 + 12 + 0) / 8."""
    assert aggregate("mean") == pytest.approx([6.5, 2.5, 3.0, 0.75, 2.5])


def test_a_robust_rule_sees_what_is_checked_and_the_rest_is_averaged() -> None:
    """The medians are 5, 2, 2 and 2, of which c's counts for 3 of 12 clients; hidden is the mean."""
    assert aggregate("median") == pytest.approx([5.0, 2.0, 2.0, 0.5, 2.5])


def judged(values: list[float], max_norm: float = 100.0) -> Update | Refusal:
    gate = AdmissionGate(
        GateOptions(max_norm=max_norm), CODEC, {}, 1, checked=keys().checked, remembering=False
    )
    parts = {"a": values[:2], "b": values[2:3], "c": values[3:4], "hidden": values[4:]}
    stack = {key: torch.tensor([part], dtype=torch.float32) for key, part in parts.items()}
    content = next(training_replies(CODEC, CohortUpdate([0], stack, {}, 1), 1)).write()
    with as_server():
        request = Message(RecordDict(), 2, "train")
        return gate.check(0, 1, [Message(content, reply_to=request)])


def test_the_norm_and_the_fingerprint_are_of_what_is_checked() -> None:
    """|(1, 2, 4, 10)| = 11, whatever the hidden value is."""
    one, other = judged([1.0, 2.0, 4.0, 10.0, 0.0]), judged([1.0, 2.0, 4.0, 10.0, 1e6])
    assert isinstance(one, Update)
    assert isinstance(other, Update)
    assert one.norm == pytest.approx(11.0)
    assert one.fingerprint == other.fingerprint
    turned = judged([1.0, 2.0, 4.0, -10.0, 0.0])
    assert isinstance(turned, Update)
    assert turned.fingerprint != one.fingerprint
    refused = judged([1.0, 2.0, 4.0, 10.0, 0.0], max_norm=10.9)
    assert isinstance(refused, Refusal)
    assert refused.code == "norm"


def test_unchecked_tensors_must_still_be_finite() -> None:
    refused = judged([1.0, 2.0, 4.0, 10.0, float("nan")])
    assert isinstance(refused, Refusal)
    assert refused.code == "nan"


def test_a_score_sees_neither_what_is_hidden_nor_what_is_added() -> None:
    scored, checked = keys().scored, keys().checked
    assert scored is not None
    assert checked is not None
    assert scored.tolist() == [0, 1]
    assert checked.tolist() == [0, 1, 2, 3]


def test_a_clients_draws_do_not_depend_on_the_rest_of_its_batch() -> None:
    tasks = make_tasks(CASES["sinusoid-mlp"].spec, tasks=2)
    update = make_learner("fedavg", CASES["sinusoid-mlp"]).task_updates

    def drawn(clients: list[int], client: int, round_: int) -> float:
        work = LocalWork(clients, tasks, 1, 0.1, update, seed=5, round=round_)
        return torch.rand(1, generator=work.generator(client)).item()

    assert drawn([3, 4], 4, 2) == drawn([4, 9], 4, 2)
    assert len({drawn([3, 4], 3, 2), drawn([3, 4], 4, 2), drawn([3, 4], 4, 3)}) == 3
