"""Contribution scorers: their inputs, the effect of awards, and copies that are never scored."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Array, RecordDict

from fedmeta.federation import Award, Plan, Preview, Rewards, RoundRecord, ServerOptions, Update
from fedmeta.training import simulate
from tests.federation.helpers import PLAN, SINUSOID, assert_same, reply_mod

SGD = replace(PLAN, rounds=2, cohort=12, server=ServerOptions(optimizer="SGD", lr=0.1))


class Watching:
    """Pays each client its partition id, and keeps what it was shown."""

    wants_vectors = True

    def __init__(self) -> None:
        self.rounds: list[tuple[int, list[Update], dict[str, torch.Tensor]]] = []

    def award(self, round_: int, admitted: Sequence[Update], preview: Preview) -> Mapping[int, Award]:
        weights = np.array([update.tasks for update in admitted], float)
        mean = weights @ np.stack([update.vector for update in admitted]) / weights.sum()
        self.rounds.append((round_, list(admitted), preview(mean)))
        return {update.client: Award(float(update.client), update.client) for update in admitted}


def records_of(scorer: Watching, plan: Plan = SGD, **spoilt: object) -> list[RoundRecord]:
    records: list[RoundRecord] = []
    simulate(
        SINUSOID,
        plan,
        observer=lambda record, _: records.append(record),
        rewards=Rewards(scorer=scorer),
        mods=spoilt.get("mods"),  # type: ignore[arg-type]
    )
    return records


def test_the_scorer_sees_every_admitted_update_before_the_step_that_it_can_foresee() -> None:
    scorer = Watching()
    records = records_of(scorer)
    assert [round_ for round_, *_ in scorer.rounds] == [1, 2]
    after = [simulate(SINUSOID, replace(SGD, rounds=n), observer=lambda *_: None) for n in (1, 2)]
    for (_, admitted, foreseen), record, snapshot in zip(scorer.rounds, records, after, strict=True):
        assert [update.client for update in admitted] == [c.client for c in record.clients]
        assert [np.linalg.norm(u.vector) for u in admitted] == pytest.approx(
            [c.norm for c in record.clients]
        )
        for key, value in snapshot.state.items():
            torch.testing.assert_close(foreseen[key], value, rtol=1e-5, atol=1e-7)


def test_awards_are_logged_beside_the_clients_and_change_nothing_that_is_learned() -> None:
    scorer = Watching()
    records = records_of(scorer)
    assert [c.award for c in records[0].clients] == [Award(float(n), n) for n in range(12)]
    rewarded = simulate(SINUSOID, SGD, observer=lambda *_: None, rewards=Rewards(scorer=Watching()))
    assert_same(rewarded.state, simulate(SINUSOID, SGD, observer=lambda *_: None).state)


def test_a_skipped_round_pays_nothing() -> None:
    def spoil(body: RecordDict) -> None:
        body["config"]["round"] = 99

    scorer = Watching()
    plan = replace(SGD, quorum=12)
    records = records_of(scorer, plan, mods={1: [reply_mod(spoil)]})
    assert [record.skipped for record in records] == [True, True]
    assert scorer.rounds == []
    assert {client.award for record in records for client in record.clients} == {None}


def scaled(factor: float) -> object:
    def change(body: RecordDict) -> None:
        for key, array in body["arrays"].items():
            body["arrays"][key] = Array((factor * array.numpy()).astype(array.dtype))

    return change


@pytest.mark.parametrize(
    ("factor", "admitted"),
    [(1.0, False), (-1.0, True), (1.0001, True)],
    ids=["same", "turned", "longer"],
)
def test_only_an_exact_copy_is_refused_as_a_copy(factor: float, admitted: bool) -> None:
    from tests.federation.test_signing import as_client

    mods = {7: [reply_mod(scaled(factor)), as_client(2)]}  # type: ignore[arg-type]
    seventh = records_of(Watching(), mods=mods)[0].clients[7]
    assert seventh.admitted is admitted
    assert seventh.reason == (None if admitted else "the same update as client 2's")


def test_clients_that_learned_nothing_are_no_copies_of_each_other() -> None:
    mods = {n: [reply_mod(scaled(0.0))] for n in (3, 4)}  # type: ignore[arg-type]
    assert all(client.admitted for client in records_of(Watching(), mods=mods)[0].clients)
