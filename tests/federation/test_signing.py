"""Updates are signed by their senders on every path, and the gate accepts no others."""

import hashlib
import hmac
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedmeta.federation import ClientRecord, Learner, Rewards, RoundRecord, Snapshot
from fedmeta.federation.codec import Codec, tensors_digest
from fedmeta.training import simulate
from tests.federation.helpers import PLAN, SINUSOID, assert_same, reply_mod

ONE_ROUND = replace(PLAN, rounds=1, cohort=12)


class SharedSecrets:
    """Signatures by HMAC: every client shares a secret with the server."""

    def account(self, client: int) -> str:
        return f"account-{client}"

    def sign(self, client: int, round_: int, tasks: int, update: bytes) -> bytes:
        assert len(update) == 32
        message = struct.pack("<qq", round_, tasks) + update
        return hmac.digest(f"secret of {client}".encode(), message, "sha256")

    def check(self, client: int, round_: int, tasks: int, update: bytes, signature: bytes) -> bool:
        return hmac.compare_digest(self.sign(client, round_, tasks, update), signature)


def one_round(mods: dict[int, list[Mod]] | None = None) -> tuple[Snapshot, tuple[ClientRecord, ...]]:
    records: list[RoundRecord] = []
    state = simulate(
        SINUSOID,
        ONE_ROUND,
        observer=lambda record, _: records.append(record),
        mods=mods,
        rewards=Rewards(signatures=SharedSecrets()),
    )
    return state, records[0].clients


def config(change: Callable[[ConfigRecord], object]) -> Callable[[RecordDict], None]:
    return lambda body: change(body["config"]) and None  # type: ignore[arg-type]


def test_the_digest_is_a_sha256_that_anyone_can_compute() -> None:
    tensors = {"w": torch.tensor([[1.0], [2.0]]).T, "b": torch.tensor(3.0, dtype=torch.float64)}
    by_hand = hashlib.sha256(
        b"b\0<f8\0\0" + struct.pack("<d", 3.0) + b"w\0<f4\x001,2\0" + struct.pack("<ff", 1.0, 2.0)
    ).digest()
    codec = Codec(tensors)
    assert tensors_digest(tensors) == by_hand
    assert codec.digest(codec.encode(tensors)) == by_hand


def test_every_admitted_update_carries_the_proof_of_who_sent_it() -> None:
    _, clients = one_round()
    assert len(clients) == 12
    for record in clients:
        assert record.signed is not None
        assert record.signed.account == f"account-{record.client}"
        signed = (record.client, 1, record.tasks, record.signed.digest, record.signed.signature)
        assert SharedSecrets().check(*signed)


def test_signing_changes_nothing_that_is_learned() -> None:
    unsigned = simulate(SINUSOID, ONE_ROUND, observer=lambda *_: None)
    assert_same(one_round()[0].state, unsigned.state)


def test_a_client_with_mods_signs_what_its_mods_made_of_the_update() -> None:
    def double(body: RecordDict) -> None:
        codec = Codec(Learner.build(SINUSOID).template)
        tensors = {key: 2 * value for key, value in codec.decode(body["arrays"]).items()}  # type: ignore[arg-type]
        body["arrays"] = codec.encode(tensors)

    plain = one_round()[1][4]
    doubled = one_round({4: [reply_mod(double)]})[1][4]
    assert doubled.admitted
    assert doubled.norm == pytest.approx(2 * plain.norm)  # type: ignore[operator]
    assert doubled.signed
    assert plain.signed
    assert doubled.signed.digest != plain.signed.digest


def as_client(other: int) -> Mod:
    """A client that computes what another one computes."""

    def pose(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        posed = Context(context.run_id, context.node_id, {"partition-id": other}, context.state, {})
        return call_next(message, posed)

    return pose


def test_a_client_that_impersonates_another_still_signs_as_itself() -> None:
    _, clients = one_round({5: [as_client(2)]})
    assert clients[2].admitted
    assert (clients[5].admitted, clients[5].reason) == (False, "the same update as client 2's")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.pop("signature"), "not signed"),
        (lambda c: c.update({"signature": "text"}), "not signed"),
        (lambda c: c.update({"signature": b""}), "not signed by the account of its client"),
        (lambda c: c.update({"signature": bytes(65)}), "not signed by the account of its client"),
        (lambda c: c.update({"more": 1}), "unexpected config 'more'"),
    ],
)
def test_updates_not_signed_by_their_client_are_quarantined(
    change: Callable[[ConfigRecord], object], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedmeta.federation.engines.vector import grid

    signs = grid.sign_reply

    def sign_then_change(reply: RecordDict, client: int, *rest: object) -> None:
        signs(reply, client, *rest)  # type: ignore[arg-type]
        if client == 3:
            config(change)(reply)

    monkeypatch.setattr(grid, "sign_reply", sign_then_change)
    _, clients = one_round()
    assert [c.client for c in clients if not c.admitted] == [3]
    assert clients[3].reason == reason
    assert clients[3].signed is None


def test_a_task_count_that_was_not_signed_is_quarantined(monkeypatch: pytest.MonkeyPatch) -> None:
    class ForOne(SharedSecrets):
        def sign(self, client: int, round_: int, tasks: int, update: bytes) -> bytes:
            # Every signature is over one more task than the reply claims.
            return super().sign(client, round_, tasks + (client == 6), update)

        def check(self, client: int, round_: int, tasks: int, update: bytes, signature: bytes) -> bool:
            return SharedSecrets().check(client, round_, tasks, update, signature)

    records: list[RoundRecord] = []
    simulate(
        SINUSOID,
        ONE_ROUND,
        observer=lambda record, _: records.append(record),
        rewards=Rewards(signatures=ForOne()),
    )
    assert [c.client for c in records[0].clients if not c.admitted] == [6]
