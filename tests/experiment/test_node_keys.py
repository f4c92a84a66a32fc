"""A node's keys stay private, and its registration proves that the sender holds them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from eth_account import Account

from fedmeta.chain import recover, update_digest
from fedmeta.chain.signing import presence_digest
from fedmeta.errors import UsageError
from fedmeta.experiment.node_keys import NodeFiles, NodeSigner, join, open_account, read_registration

RUN = bytes(range(32))


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> NodeFiles:
    made = NodeFiles(tmp_path_factory.mktemp("node"), "mine")
    join(made, "our-study", 2)
    return made


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_private_halves_are_their_owners_under_any_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        made = NodeFiles(tmp_path / "node")
        join(made, "our-study", 0)
    finally:
        os.umask(before)
    assert mode(made.key.private) == 0o600
    assert mode(made.account) == 0o600
    assert mode(tmp_path / "node") & 0o077 == 0


def test_a_registration_holds_nothing_private(files: NodeFiles) -> None:
    text = files.registration.read_text()
    secret = Account.decrypt(files.account.read_text(), "")
    assert secret.hex().removeprefix("0x") not in text
    private = files.key.private.read_text().splitlines()[1:-1]
    assert not any(line in text for line in private)
    sent = read_registration(files.registration)
    assert sent.account == Account.from_key(secret).address
    assert sent.key == files.key.public.read_text().strip()


def test_a_node_that_joins_again_keeps_its_keys(files: NodeFiles) -> None:
    before = (files.account.read_bytes(), files.key.private.read_bytes())
    other = join(files, "another-study", 7)
    assert (files.account.read_bytes(), files.key.private.read_bytes()) == before
    assert (other.federation, other.partition) == ("another-study", 7)
    join(files, "our-study", 2)


def test_a_password_encrypts_the_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encrypt, work = Account.encrypt, []

    def quickly(*args: Any, iterations: int, **more: Any) -> Any:
        work.append(iterations)
        return encrypt(*args, iterations=2, **more)

    monkeypatch.setattr(Account, "encrypt", quickly)
    monkeypatch.setenv("FEDMETA_KEYSTORE_PASSWORD", "an unusual password")
    made = NodeFiles(tmp_path)
    address = join(made, "our-study", 0).account
    # The work factor of Geth.
    assert work == [262_144]
    assert open_account(made.account).address == address
    monkeypatch.delenv("FEDMETA_KEYSTORE_PASSWORD")
    with pytest.raises(UsageError, match="wrong password"):
        open_account(made.account)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"partition": 3}, "not signed with the key"),
        ({"federation": "other"}, "not signed with the key"),
        ({"account": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"}, "signed by 0x.* not by its account"),
        ({"partition": -1}, "partition: "),
        ({"partition": True}, "partition: "),
        ({"signature": "00" * 65}, "not a registration written by"),
        ({"key_signature": "00" * 70}, "not signed with the key"),
        ({"key": "ecdsa-sha2-nistp384 AAAA"}, "not a registration written by"),
        ({"federation": "\x1b[2Jours"}, "federation: "),
        ({"more": 1}, "unknown key 'more'"),
    ],
)
def test_a_registration_not_signed_by_its_keys_is_one_line(
    change: dict[str, object], message: str, files: NodeFiles, tmp_path: Path
) -> None:
    content = json.loads(files.registration.read_text()) | change
    (tmp_path / "changed.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message) as refused:
        read_registration(tmp_path / "changed.json")
    assert "\n" not in str(refused.value)
    assert "\x1b" not in str(refused.value)


def test_another_owners_public_key_cannot_be_registered(files: NodeFiles, tmp_path: Path) -> None:
    own = NodeFiles(tmp_path / "thief")
    join(own, "our-study", 2)
    # Its own account, and the victim's public key: the account's signature is good.
    own.key.public.write_bytes(files.key.public.read_bytes())
    with pytest.raises(UsageError, match="not signed with the key that it names"):
        join(own, "our-study", 2)


@pytest.mark.parametrize(
    "content", ["", "[]", "[" * 3000, '{"version": 1}', "\x00", "{" * 100_000, "9" * 5000]
)
def test_a_file_that_is_not_a_registration_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "sent.json").write_text(content)
    with pytest.raises(UsageError, match=r"sent\.json is not a"):
        read_registration(tmp_path / "sent.json")


def test_a_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "sent.json")
    with pytest.raises(UsageError, match="Not a regular file"):
        read_registration(tmp_path / "sent.json")


def test_a_key_that_is_not_a_nodes_key_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "node").write_text("my own notes")
    with pytest.raises(UsageError, match="is not a node's key"):
        join(NodeFiles(tmp_path), "our-study", 0)
    assert (tmp_path / "node").read_text() == "my own notes"


def test_signed_messages_name_the_run_and_what_they_are_for(
    files: NodeFiles,
) -> None:
    account = open_account(files.account)
    signer = NodeSigner(account, RUN)
    update = bytes(32)
    digest = update_digest(RUN, 3, 4, update)
    assert recover(digest, signer.sign(2, 3, 4, update)) == account.address
    others = [
        update_digest(bytes(32), 3, 4, update),
        update_digest(RUN, 2, 4, update),
        update_digest(RUN, 3, 5, update),
        update_digest(RUN, 3, 4, RUN),
        presence_digest(RUN, 3, 4, update),
    ]
    assert all(recover(other, signer.sign(2, 3, 4, update)) != account.address for other in others)
    assert recover(presence_digest(RUN, 9, 2, update), signer.prove(9, 2, update)) == account.address


def test_the_flower_key_is_one_that_flower_takes(files: NodeFiles) -> None:
    private = load_ssh_private_key(files.key.private.read_bytes(), None)
    assert private.curve.name == "secp384r1"  # type: ignore[union-attr]
