"""Misbehaving clients and those with poor data: what they send, compared with honest ones."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message
from numpy.typing import NDArray

from fedmeta.errors import ConfigError
from fedmeta.federation import Learner, Plan, VectorGrid, Workload
from fedmeta.federation.behaviours import mods_for
from fedmeta.federation.behaviours.noisy_data import NoisyFamily
from fedmeta.federation.engines.vector.jobs import InProcess
from fedmeta.federation.flower import as_server
from fedmeta.federation.part_tables import read_behaviours
from fedmeta.federation.strategy import MetaStrategy
from fedmeta.learning import AlgorithmSetup
from fedmeta.learning.device import one_thread
from fedmeta.tasks import Population, stream
from tests.federation.helpers import SINUSOID, assert_same, flat, run_on_grid, train_requests

WORKLOAD = replace(SINUSOID, tasks_per_client=3)
EVERYBODY = Plan(rounds=2, cohort=12)
CHEAT, VICTIM = 5, 2


def replies(
    *tables: Mapping[str, Any], workload: Workload = WORKLOAD, round_: int = 1
) -> dict[int, Message]:
    """All training clients' replies to the initial state, by client."""
    with one_thread(), as_server():
        learner = Learner.build(workload)
        grid = VectorGrid(learner, InProcess(learner), mods_for(tables, workload))
        plan = Plan(rounds=2, cohort=workload.population.train)
        strategy = MetaStrategy(learner, plan)
        asked = train_requests(grid, strategy, round_)
        return {reply.metadata.src_node_id - 2: reply for reply in grid.send_and_receive(asked)}


def update(reply: Message) -> NDArray[np.float64]:
    return np.concatenate([a.numpy().ravel() for a in reply.content["arrays"].values()]).astype(
        np.float64
    )  # type: ignore[union-attr]


def tasks(reply: Message) -> object:
    return reply.content["metrics"]["num-tasks"]  # type: ignore[index]


def part(kind: str, **options: Any) -> dict[str, Any]:
    return {"kind": kind, "clients": [CHEAT], **options}


@pytest.fixture(scope="module")
def honest() -> dict[int, Message]:
    return replies()


def length(vector: NDArray[np.float64]) -> float:
    return float(np.sqrt((vector**2).sum()))


def cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(one @ other / (length(one) * length(other)))


ALL = [
    part("zero-update"),
    part("noise"),
    part("copy", of=VICTIM),
    part("disguised-copy", of=VICTIM),
    part("poison"),
    part("noisy-data", inputs=0.5),
    part("little-data"),
    part("sybil", owner=VICTIM),
]


@pytest.mark.parametrize("table", ALL, ids=[table["kind"] for table in ALL])
def test_only_the_misbehaving_client_sends_something_else(
    table: dict[str, Any], honest: dict[int, Message]
) -> None:
    played = replies(table)
    for client in honest:
        if client == CHEAT:
            assert not np.array_equal(update(played[client]), update(honest[client]))
        else:
            # A victim is computed alone, not in the stack: the same up to rounding.
            np.testing.assert_allclose(
                update(played[client]), update(honest[client]), rtol=1e-4, atol=1e-6
            )


@pytest.mark.parametrize("table", ALL, ids=[table["kind"] for table in ALL])
def test_a_part_is_played_alike_in_every_run_and_is_admitted(table: dict[str, Any]) -> None:
    mods = [mods_for([table], WORKLOAD) for _ in range(2)]
    (one, records), (other, _) = (run_on_grid(WORKLOAD, EVERYBODY, mods=own) for own in mods)
    assert_same(one.state, other.state)
    refused = {client.reason for record in records for client in record.clients if not client.admitted}
    assert refused == ({f"the same update as client {VICTIM}'s"} if table["kind"] == "copy" else set())


def test_a_zero_update_is_all_zeros_and_claims_honest_work(honest: dict[int, Message]) -> None:
    sent = replies(part("zero-update"))[CHEAT]
    values = update(sent)
    assert not values.any()
    assert not np.signbit(values).any()
    assert tasks(sent) == tasks(honest[CHEAT])
    assert sent.content["metrics"] == honest[CHEAT].content["metrics"]


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_noise_is_as_long_as_honest_work_times_its_scale_and_points_nowhere(
    scale: float, honest: dict[int, Message]
) -> None:
    sent, right = update(replies(part("noise", scale=scale))[CHEAT]), update(honest[CHEAT])
    assert length(sent) == pytest.approx(scale * length(right), rel=1e-5)
    # 97 values: a random direction is within 4 / sqrt(97) of orthogonal but once in 15,000 times.
    assert abs(cosine(sent, right)) < 4 / np.sqrt(len(sent))


def test_noise_is_new_in_every_round_and_for_every_client() -> None:
    both = {"kind": "noise", "clients": [CHEAT, CHEAT + 1]}
    first, second = replies(both), replies(both, round_=2)
    sent = [update(first[CHEAT]), update(first[CHEAT + 1]), update(second[CHEAT])]
    for one, other in ((0, 1), (0, 2)):
        assert abs(cosine(sent[one], sent[other])) < 4 / np.sqrt(len(sent[0]))


def test_a_copy_is_its_victims_update_to_the_last_bit() -> None:
    sent = replies(part("copy", of=VICTIM))
    assert list(flat({"a": sent[CHEAT].content["arrays"]})) == list(
        flat({"a": sent[VICTIM].content["arrays"]})
    )


def test_a_copy_of_a_client_with_poor_data_copies_what_that_client_sends() -> None:
    poor = {"kind": "little-data", "clients": [VICTIM], "tasks": 1}
    sent = replies(part("copy", of=VICTIM), poor)
    assert np.array_equal(update(sent[CHEAT]), update(sent[VICTIM]))
    assert tasks(sent[CHEAT]) == tasks(sent[VICTIM]) == 1


def test_a_disguised_copy_points_where_its_victim_does(honest: dict[int, Message]) -> None:
    sent, right = (
        update(replies(part("disguised-copy", of=VICTIM, scale=2.0, noise=0.5))[CHEAT]),
        update(honest[VICTIM]),
    )
    # Noise of length 0.5 at a right angle to 2 of signal: the cosine is 2 / sqrt(2^2 + 0.5^2).
    assert cosine(sent, right) == pytest.approx(2 / np.sqrt(4.25), abs=0.05)
    assert length(sent - 2.0 * right) == pytest.approx(0.5 * length(right), rel=1e-4)


def test_poison_is_the_opposite_of_honest_work(honest: dict[int, Message]) -> None:
    sent = update(replies(part("poison", factor=3.0))[CHEAT])
    np.testing.assert_allclose(sent, -3.0 * update(honest[CHEAT]), rtol=1e-5, atol=1e-7)


def test_little_data_is_the_mean_over_fewer_tasks_and_says_so(honest: dict[int, Message]) -> None:
    sent = replies(part("little-data", tasks=1))[CHEAT]
    learner = Learner.build(replace(WORKLOAD, tasks_per_client=1))
    own = learner.sample(1, CHEAT)
    rows = {key: value[None] for key, value in learner.init_state().items()}
    by_hand, _ = learner.algorithm.task_updates(rows, own)
    assert tasks(sent) == 1
    assert tasks(honest[CHEAT]) == 3
    np.testing.assert_allclose(
        update(sent), torch.cat([v.flatten() for v in by_hand.values()]), rtol=1e-4, atol=1e-6
    )


def test_little_data_is_never_more_than_what_was_asked() -> None:
    assert tasks(replies(part("little-data", tasks=50))[CHEAT]) == 3


@pytest.mark.parametrize(("asked", "done"), [(None, 3), (2, 2), (50, 3)])
def test_a_sybil_trains_on_its_owners_data_by_its_own_draws(asked: int | None, done: int) -> None:
    options = {} if asked is None else {"tasks": asked}
    sent = replies(part("sybil", owner=VICTIM, **options))[CHEAT]
    learner = Learner.build(WORKLOAD)
    drawn = learner.family.sample(VICTIM, done, stream(WORKLOAD.seed, "train", 1, CHEAT))
    rows = {key: value.expand(done, *value.shape) for key, value in learner.init_state().items()}
    by_hand, _ = learner.algorithm.task_updates(rows, drawn)
    assert tasks(sent) == done
    np.testing.assert_allclose(
        update(sent),
        torch.cat([value.mean(0).flatten() for value in by_hand.values()]),
        rtol=1e-4,
        atol=1e-6,
    )


DIGITS = Workload(
    task="digits",
    data={"ways": 5, "shots": 2, "queries": 4},
    population=Population(4, 1, 1),
    setup=AlgorithmSetup("maml", {}, "mlp", {"hidden": [8]}),
    seed=3,
)


def test_noisy_labels_are_wrong_as_often_as_chance_says_and_images_stay() -> None:
    family = Learner.build(DIGITS).family
    right = family.sample(0, 400, stream(1, "a"))
    wrong = NoisyFamily(family, 0.5, 0.0).sample(0, 400, stream(1, "a"))
    assert torch.equal(right.support_x, wrong.support_x)
    assert torch.equal(right.query_x, wrong.query_x)
    # Half are replaced by the label of a random example, which is another class 4 times out of 5.
    for one, other in ((right.support_y, wrong.support_y), (right.query_y, wrong.query_y)):
        assert float((one != other).float().mean()) == pytest.approx(0.4, abs=0.03)


def test_noisy_inputs_have_the_deviation_asked_for_and_labels_stay() -> None:
    family = Learner.build(DIGITS).family
    right = family.sample(0, 50, stream(1, "a"))
    wrong = NoisyFamily(family, 0.0, 0.7).sample(0, 50, stream(1, "a"))
    assert torch.equal(right.query_y, wrong.query_y)
    assert float((wrong.query_x - right.query_x).std()) == pytest.approx(0.7, abs=0.01)


MISTAKES: list[tuple[list[dict[str, Any]], str]] = [
    ([{"kind": "posion", "clients": [1]}], "unknown behaviour 'posion': did you mean 'poison'?"),
    (
        [part("poison", facto=2.0)],
        "unknown key 'behaviours.0.facto': did you mean 'behaviours.0.factor'?",
    ),
    ([part("poison", factor=-1.0)], "behaviours.0.factor: must be greater than 0 (got -1.0)"),
    ([part("copy")], "missing key 'behaviours.0.of'"),
    ([{"kind": "noise"}], "missing key 'behaviours.0.clients'"),
    (
        [part("noise"), {"kind": "noise", "clients": [12]}],
        "behaviours.1.clients: client 12 is not one of the 12 that train",
    ),
    ([part("noise"), part("poison")], "behaviours.1.clients: client 5 already has a behaviour"),
    ([part("copy", of=CHEAT)], "behaviours.0.of: client 5 is a copier itself"),
    ([part("copy", of=-1)], "behaviours.0.of: client -1 is not one of the 12 that train"),
    ([part("sybil", owner=12)], "behaviours.0.owner: client 12 is not one of the 12 that train"),
    (
        [part("fedmeta.options.Options")],
        "behaviours.0.kind: 'fedmeta.options.Options' is not a Behaviour",
    ),
]


@pytest.mark.parametrize(("tables", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_a_mistake_is_refused_in_one_line(tables: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        mods_for(tables, WORKLOAD)
    assert str(caught.value) == message


def test_a_table_is_written_back_with_its_defaults() -> None:
    (assignment,) = read_behaviours([part("disguised-copy", of=VICTIM)], WORKLOAD.population)
    assert assignment.table == {
        "kind": "disguised-copy",
        "clients": [CHEAT],
        "of": VICTIM,
        "scale": 0.9,
        "noise": 0.1,
    }
