"""A roster gives each partition to one key and one account, and each node its own partition."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedmeta.errors import UsageError
from fedmeta.experiment import Config, RunFolder
from fedmeta.experiment.accounts import (
    RosterSeats,
    RosterSignatures,
    open_signatures,
    require_same_accounts,
)
from fedmeta.experiment.node_keys import NodeFiles, NodeSigner, join, open_account
from fedmeta.experiment.roster import LOCAL, LocalNodes, Roster, admit
from tests.experiment.helpers import TINY

RUN, OTHER_RUN = bytes(range(32)), bytes(32)
NONCE, OTHER_NONCE = b"\x01" * 32, b"\x02" * 32
UPDATE = b"\x07" * 32
SENT = "node-{}.registration.json"


def signer(folder: Path, number: int, run: bytes = RUN) -> NodeSigner:
    return NodeSigner(open_account(NodeFiles(folder, f"node-{number}").account), run)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three nodes of the federation 'ours', for partitions 0 to 2; a fourth for 0 as well."""
    folder = tmp_path_factory.mktemp("keys")
    for number in range(4):
        join(NodeFiles(folder, f"node-{number}"), "ours", number % 3)
    return folder


@pytest.fixture
def roster(keys: Path, tmp_path: Path) -> Roster:
    """Partitions 0 to 2, whose keys a SuperLink knows as nodes 100 to 102."""
    path = tmp_path / "roster.json"
    ids = iter((100, 101, 102))
    admit(path, [keys / SENT.format(number) for number in range(3)], "ours", lambda _: next(ids))
    return Roster.read(path)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def seats(roster: Roster, told: list[str]) -> RosterSeats:
    return RosterSeats(roster, RUN, told.append)


def test_admitted_registrations_are_read_back(roster: Roster, keys: Path) -> None:
    assert {seat.registration.partition: seat.node for seat in roster} == {0: 100, 1: 101, 2: 102}
    for number in range(3):
        assert roster.seat(number).registration.account == signer(keys, number).account.address  # type: ignore[union-attr]


def test_a_node_takes_the_partition_that_it_was_given(seats: RosterSeats, keys: Path) -> None:
    for number in range(3):
        proof = signer(keys, number).prove(100 + number, number, NONCE)
        assert seats.why_not(100 + number, number, NONCE, proof) is None


Proof = Callable[[Path], object]


@pytest.mark.parametrize(
    ("node", "client", "proof", "why"),
    [
        # Its own key and account, and another's partition.
        (101, 0, lambda k: signer(k, 1).prove(101, 0, NONCE), "its key is admitted to partition 1"),
        # Another's account as well.
        (101, 0, lambda k: signer(k, 0).prove(101, 0, NONCE), "its key is admitted to partition 1"),
        # A key that nobody admitted, with the account of the partition.
        (
            555,
            0,
            lambda k: signer(k, 0).prove(555, 0, NONCE),
            "to which the key of node 100 is admitted",
        ),
        # The key of the partition, and another's account.
        (100, 0, lambda k: signer(k, 3).prove(100, 0, NONCE), "with a proof by 0x"),
        (100, 0, lambda k: None, "without a proof"),
        (100, 0, lambda k: "text", "without a proof"),
        (100, 0, lambda k: bytes(65), "a proof that is not a signature"),
        (100, 0, lambda k: b"", "a proof that is not a signature"),
        # Proofs of another question, node, partition or run.
        (100, 0, lambda k: signer(k, 0).prove(100, 0, OTHER_NONCE), "with a proof by 0x"),
        (100, 0, lambda k: signer(k, 0).prove(101, 0, NONCE), "with a proof by 0x"),
        (100, 0, lambda k: signer(k, 0).prove(100, 1, NONCE), "with a proof by 0x"),
        (100, 0, lambda k: signer(k, 0, OTHER_RUN).prove(100, 0, NONCE), "with a proof by 0x"),
        # A signed update is no proof.
        (100, 0, lambda k: signer(k, 0).sign(0, 100, 0, NONCE), "with a proof by 0x"),
        (555, 7, lambda k: signer(k, 0).prove(555, 7, NONCE), "admits no node"),
    ],
)
def test_another_key_or_partition_is_refused_in_one_line(
    node: int, client: int, proof: Proof, why: str, seats: RosterSeats, keys: Path
) -> None:
    said = seats.why_not(node, client, NONCE, proof(keys))
    assert said is not None
    assert said.startswith(f"it claims partition {client}")
    assert why in said
    assert "\n" not in said


def test_without_keys_that_a_superlink_knows_the_account_decides(keys: Path, tmp_path: Path) -> None:
    path = tmp_path / "roster.json"
    admit(path, [keys / SENT.format(number) for number in range(2)], "ours")
    seats = RosterSeats(Roster.read(path), RUN, print)
    assert seats.why_not(9, 0, NONCE, signer(keys, 0).prove(9, 0, NONCE)) is None
    assert "with a proof by" in str(seats.why_not(9, 1, NONCE, signer(keys, 0).prove(9, 1, NONCE)))


def test_an_update_is_good_for_its_client_run_round_tasks_and_values_alone(
    roster: Roster, keys: Path
) -> None:
    ours = RosterSignatures(roster, RUN)
    signed = signer(keys, 1).sign(1, 5, 3, UPDATE)
    assert ours.check(1, 5, 3, UPDATE, signed)
    assert not ours.check(0, 5, 3, UPDATE, signed)
    assert not ours.check(1, 6, 3, UPDATE, signed)
    assert not ours.check(1, 5, 4, UPDATE, signed)
    assert not ours.check(1, 5, 3, NONCE, signed)
    assert not RosterSignatures(roster, OTHER_RUN).check(1, 5, 3, UPDATE, signed)
    assert not ours.check(1, 5, 3, UPDATE, b"")
    assert not ours.check(1, 2**64, 3, UPDATE, signed)


def test_a_taken_partition_stays_with_its_node(roster: Roster, keys: Path) -> None:
    before = roster.path.read_bytes()
    with pytest.raises(UsageError, match=r"partition 0 is held by 0x.*, and 0x.* requests it too"):
        admit(roster.path, [keys / SENT.format(3)], None)
    assert roster.path.read_bytes() == before


def test_one_account_or_key_has_one_partition(roster: Roster, keys: Path, tmp_path: Path) -> None:
    second = NodeFiles(tmp_path, "second")
    for path, name in (
        (second.account, "account.json"),
        (second.key.private, ""),
        (second.key.public, "pub"),
    ):
        first = keys / (f"node-1.{name}" if name else "node-1")
        path.write_bytes(first.read_bytes())
    join(second, "ours", 8)
    with pytest.raises(UsageError, match="whose key also requests partition 8"):
        admit(roster.path, [second.registration], None)
    second.key.private.unlink()
    join(second, "ours", 8)
    with pytest.raises(UsageError, match="which also requests partition 8"):
        admit(roster.path, [second.registration], None)


def test_another_federations_registration_is_refused(roster: Roster, tmp_path: Path) -> None:
    other = NodeFiles(tmp_path, "other")
    join(other, "theirs", 5)
    with pytest.raises(UsageError, match="for the federation 'theirs'"):
        admit(roster.path, [other.registration], None)
    with pytest.raises(UsageError, match="for the federation 'ours', not 'theirs'"):
        admit(roster.path, [other.registration], "theirs")


def test_all_are_admitted_or_none(keys: Path, tmp_path: Path) -> None:
    path, bad = tmp_path / "roster.json", tmp_path / "bad.json"
    bad.write_text("{}")
    asked: list[str] = []
    with pytest.raises(UsageError, match=r"bad\.json"):
        admit(path, [keys / SENT.format(0), bad], "ours", lambda key: asked.append(key) or 1)
    assert not path.exists()
    assert asked == []
    with pytest.raises(UsageError, match="name its federation with --federation"):
        admit(path, [keys / SENT.format(0)], None)


def test_admitting_continues_where_a_superlink_stopped(keys: Path, tmp_path: Path) -> None:
    path, known = tmp_path / "roster.json", dict[str, int]()
    files = [keys / SENT.format(number) for number in range(3)]

    def register(key: str) -> int:
        if key in known or (len(known) == 1 and not trying_again):
            raise UsageError("`flwr supernode register` failed")
        known[key] = 100 + len(known)
        return known[key]

    trying_again = False
    with pytest.raises(UsageError, match="register"):
        admit(path, files, "ours", register)
    trying_again = True
    assert [seat.node for seat in admit(path, files, None, register)] == [100, 101, 102]


@pytest.mark.parametrize(
    "change",
    [
        lambda nodes: nodes[0]["registration"].update(partition=9),
        lambda nodes: nodes[0]["registration"].update(account=nodes[1]["registration"]["account"]),
        lambda nodes: nodes[0].update(node="100"),
        lambda nodes: nodes.append(nodes[0] | {"more": 1}),
    ],
)
def test_a_roster_that_was_edited_is_one_line(
    change: Callable[[list[dict[str, object]]], object], roster: Roster
) -> None:
    content = json.loads(roster.path.read_text())
    change(content["nodes"])
    roster.path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"roster\.json") as refused:
        Roster.read(roster.path)
    assert "\n" not in str(refused.value)


def test_a_partition_without_a_node_is_reported_before_a_run(roster: Roster) -> None:
    paid = TINY | {
        "engine": "deployment",
        "deployment": {"roster": str(roster.path)},
        "chain": {"provider": "anvil"},
    }
    with pytest.raises(UsageError, match=r"no node is admitted to partition 3, 4, 5, 6, 7, 8 of 9"):
        open_signatures(Config(**paid), RUN)


def test_refusals_are_reported(seats: RosterSeats, told: list[str]) -> None:
    seats.refused(7, "it claims partition 0 without a proof")
    assert told == ["node 7: it claims partition 0 without a proof"]
    assert seats.admitted(100)
    assert not seats.admitted(7)


def test_nodes_on_one_machine_keep_their_accounts(tmp_path: Path) -> None:
    nodes = LocalNodes(tmp_path)
    for node in (500, 501):
        # The second SuperLink knows nothing of the first one's.
        key, account = nodes.join(0)
        nodes.admit(0, node)
        assert account.exists()
        assert key.private.exists()
        seat = Roster.read(nodes.roster).seat(0)
        assert seat is not None
        assert (seat.node, seat.registration.federation) == (node, LOCAL)
        assert seat.registration.account == open_account(account).address
    nodes.admit(0, None)
    assert Roster.read(nodes.roster).seat(0).node is None  # type: ignore[union-attr]


def test_a_resumed_run_pays_the_accounts_that_its_rounds_had(roster: Roster, tmp_path: Path) -> None:
    signatures = RosterSignatures(roster, RUN)
    folder = RunFolder.create(tmp_path / "run", Config(**TINY), {})
    log = folder.path / "clients.jsonl"
    row = {"round": 1, "client": 2, "tasks": 1, "admitted": True, "account": signatures.account(2)}
    log.write_text(json.dumps(row) + "\n")
    require_same_accounts(folder, signatures)
    log.write_text(json.dumps(row | {"account": signatures.account(1)}) + "\n")
    with pytest.raises(UsageError, match=r"client 2 had the account .* in round 1 but now has"):
        require_same_accounts(folder, signatures)
