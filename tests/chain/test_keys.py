"""Keys: public development keys on local chains, the user's own elsewhere."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.hdaccount.deterministic import HDPath
from eth_account.hdaccount.mnemonic import Mnemonic
from eth_keyfile.keyfile import create_keyfile_json

from fedmeta.chain import ChainOptions
from fedmeta.chain.keys import (
    MNEMONIC,
    ClientKeys,
    Signer,
    development_keys,
    open_client_keys,
    open_keys,
)
from fedmeta.chain.signing import recover, update_digest
from fedmeta.errors import UsageError

RUN = bytes(range(32))
# As Anvil prints them.
ANVIL = [
    "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
    "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
    "0x90F79bf6EB2c4f870365E785982E1f101E93b906",
    "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65",
    "0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc",
    "0x976EA74026E726554dB657fA54763abd0C3a0aa9",
    "0x14dC79964da2C08b23698B3D3cc7Ca32193d9955",
    "0x23618e81E3f5cdF7f54C3d65f7FBc0aBf5B21E8f",
    "0xa0Ee7A142d267C1f36714E4a8F75612F20a79720",
]
REMOTE = ChainOptions(provider="https://rpc.example.org/v3/key", committee=2, threshold=2)
SECRETS = [bytes([i] * 32) for i in range(1, 5)]
GIVEN = {
    "FEDMETA_SPONSOR_KEY": "0x" + SECRETS[0].hex(),
    "FEDMETA_COMMITTEE_KEYS": f"{SECRETS[1].hex()}, 0x{SECRETS[2].hex()}",
    "FEDMETA_CLIENT_SECRET": "correct horse battery staple, and more of it",
}


def account_of(secret: bytes) -> str:
    return str(Account.from_key(secret).address)


class TestSigner:
    def test_its_address_is_the_accounts(self) -> None:
        for secret in SECRETS:
            assert Signer(secret).address == account_of(secret)

    def test_its_signatures_are_eth_accounts(self) -> None:
        for index in range(20):
            digest = index.to_bytes(32)
            expected = Account.unsafe_sign_hash(digest, SECRETS[0]).signature
            assert Signer(SECRETS[0]).sign(digest) == expected

    @pytest.mark.parametrize(
        "fields",
        [
            {"maxFeePerGas": 3, "maxPriorityFeePerGas": 2, "data": b"\x01\x02" * 40, "to": ANVIL[1]},
            {"maxFeePerGas": 10**11, "maxPriorityFeePerGas": 0, "value": 10**18, "to": ANVIL[1]},
            {"maxFeePerGas": 10**11, "maxPriorityFeePerGas": 1, "data": b"\x60" * 300},
            {"maxFeePerGas": 9, "maxPriorityFeePerGas": 1, "data": "0x6000", "to": ANVIL[1]},
            {"maxFeePerGas": 9, "maxPriorityFeePerGas": 1, "type": 2, "data": b"\x60", "to": ANVIL[1]},
            {
                "maxFeePerGas": 9,
                "maxPriorityFeePerGas": 1,
                "to": ANVIL[1],
                "accessList": [{"address": ANVIL[1], "storageKeys": ["0x" + "01" * 32]}],
            },
            {"gasPrice": 10**9, "to": ANVIL[1], "data": b"\x00"},
            {"gasPrice": 10**9, "data": b"\x60" * 300},
        ],
    )
    def test_its_transactions_are_eth_accounts(self, fields: dict[str, Any]) -> None:
        transaction = {"chainId": 31337, "nonce": 0, "gas": 100_000, "value": 0, **fields}
        expected = Account.sign_transaction(transaction, SECRETS[0])
        raw, digest = Signer(SECRETS[0]).sign_transaction(transaction)
        assert (raw, digest) == (expected.raw_transaction, expected.hash)

    def test_a_field_that_no_transaction_has_is_refused_as_by_eth_account(self) -> None:
        fields = {"chainId": 1, "nonce": 0, "gas": 21_000, "maxFeePerGas": 9, "maxPriorityFeePerGas": 1}
        with pytest.raises(TypeError):
            Signer(SECRETS[0]).sign_transaction({**fields, "tip": 3})

    @pytest.mark.parametrize("secret", [b"", bytes(31), bytes(32), b"\xff" * 32])
    def test_an_invalid_private_key_is_refused(self, secret: bytes) -> None:
        with pytest.raises(ValueError):  # noqa: PT011
            Signer(secret)

    def test_it_does_not_show_its_key(self) -> None:
        signer = Signer(SECRETS[0])
        assert SECRETS[0].hex() not in repr(signer) + str(signer) + repr(vars(signer))


class TestRecover:
    def test_it_finds_who_signed(self) -> None:
        for index in range(20):
            digest = index.to_bytes(32)
            signed = Account.unsafe_sign_hash(digest, SECRETS[1])
            assert recover(digest, signed.signature) == account_of(SECRETS[1])

    def test_a_malleable_twin_is_refused(self) -> None:
        order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
        signature = Signer(SECRETS[0]).sign(RUN)
        mirrored = (order - int.from_bytes(signature[32:64])).to_bytes(32)
        twin = signature[:32] + mirrored + bytes([55 - signature[64]])
        # It would recover to the same account.
        assert Account._recover_hash(RUN, signature=twin) == account_of(SECRETS[0])
        with pytest.raises(ValueError, match="upper half"):
            recover(RUN, twin)

    @pytest.mark.parametrize(
        "signature", [b"", bytes(64), bytes(65), bytes(64) + b"\x1b", b"\xff" * 64 + b"\x1b", bytes(66)]
    )
    def test_an_invalid_signature_is_refused(self, signature: bytes) -> None:
        with pytest.raises(ValueError, match="not a signature"):
            recover(RUN, signature)


class TestDevelopment:
    def test_the_accounts_are_anvils(self) -> None:
        assert [Signer(key).address for key in development_keys(10)] == ANVIL

    def test_the_keys_are_those_of_bip_32(self) -> None:
        seed = Mnemonic.to_seed(MNEMONIC)
        expected = [HDPath(f"m/44'/60'/0'/0/{i}").derive(seed) for i in (0, 11, 32)]
        assert [development_keys(33)[i] for i in (0, 11, 32)] == expected

    @pytest.mark.parametrize("provider", ["embedded", "anvil", "ganache"])
    def test_chains_that_we_start_use_them_whatever_the_environment_says(self, provider: str) -> None:
        keys = open_keys(ChainOptions(provider=provider), None, GIVEN)
        assert keys.sponsor.address == ANVIL[0]
        assert sorted(member.address for member in keys.committee) == sorted(ANVIL[1:6])

    def test_committee_members_come_in_the_order_the_contracts_want(self) -> None:
        addresses = [m.address for m in open_keys(ChainOptions(provider="anvil"), None).committee]
        assert addresses == sorted(addresses, key=lambda address: int(address, 16))

    @pytest.mark.parametrize("chain_id", [31337, 1337, None])
    def test_a_local_node_by_url_may_use_the_development_keys(self, chain_id: int | None) -> None:
        options = ChainOptions(provider="http://127.0.0.1:8545")
        assert open_keys(options, chain_id, {}).sponsor.address == ANVIL[0]

    @pytest.mark.parametrize("chain_id", [1, 11155111])
    def test_no_other_chain_may(self, chain_id: int) -> None:
        options = ChainOptions(provider="http://127.0.0.1:8545")
        with pytest.raises(UsageError, match=rf"chain {chain_id} .*FEDMETA_SPONSOR_KEY"):
            open_keys(options, chain_id, {})

    def test_a_remote_node_that_has_not_answered_may_not_use_them(self) -> None:
        with pytest.raises(UsageError, match=r"rpc\.example\.org.*chain\.chain_id"):
            open_client_keys(REMOTE, None, RUN, {})
        local = REMOTE.model_copy(update={"chain_id": 31337})
        assert open_keys(local, None, {}).sponsor.address == ANVIL[0]


class TestEnvironment:
    def test_keys_are_taken_from_it(self) -> None:
        keys = open_keys(REMOTE, 1, GIVEN)
        assert keys.sponsor.address == account_of(SECRETS[0])
        assert {m.address for m in keys.committee} == {account_of(s) for s in SECRETS[1:3]}

    @pytest.mark.parametrize("name", list(GIVEN))
    def test_a_missing_variable_is_named(self, name: str) -> None:
        def everybody() -> None:
            open_keys(REMOTE, 1, {**GIVEN, name: ""})
            open_client_keys(REMOTE, 1, RUN, {**GIVEN, name: ""})

        with pytest.raises(UsageError, match=f"environment variable {name} is not set"):
            everybody()

    def test_a_sponsor_needs_no_secret_of_clients_that_sign_for_themselves(self) -> None:
        given = {**GIVEN, "FEDMETA_CLIENT_SECRET": ""}
        assert open_keys(REMOTE, 1, given).sponsor.address == account_of(SECRETS[0])

    @pytest.mark.parametrize("name", ["FEDMETA_SPONSOR_KEY", "FEDMETA_COMMITTEE_KEYS"])
    @pytest.mark.parametrize("value", ["secret", "0x12", "0" * 64, "zz" * 32])
    def test_an_invalid_key_is_refused_and_not_shown(self, name: str, value: str) -> None:
        with pytest.raises(UsageError, match=f"{name} is not a private key") as caught:
            open_keys(REMOTE, 1, {**GIVEN, name: value})
        assert value not in str(caught.value)

    def test_a_short_client_secret_is_refused(self) -> None:
        with pytest.raises(UsageError, match="FEDMETA_CLIENT_SECRET has fewer than 32"):
            open_client_keys(REMOTE, 1, RUN, {**GIVEN, "FEDMETA_CLIENT_SECRET": "hunter2"})

    def test_as_many_committee_keys_as_members(self) -> None:
        with pytest.raises(UsageError, match=r"has 1 keys; chain\.committee = 2"):
            open_keys(REMOTE, 1, {**GIVEN, "FEDMETA_COMMITTEE_KEYS": SECRETS[1].hex()})

    def test_no_key_has_two_roles(self) -> None:
        twice = f"{SECRETS[1].hex()},{SECRETS[1].hex()}"
        with pytest.raises(UsageError, match="same key"):
            open_keys(REMOTE, 1, {**GIVEN, "FEDMETA_COMMITTEE_KEYS": twice})
        with pytest.raises(UsageError, match="the sponsor and a committee member have the same key"):
            open_keys(REMOTE, 1, {**GIVEN, "FEDMETA_SPONSOR_KEY": SECRETS[1].hex()})


class TestKeystore:
    PASSWORD = "an unusual password"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        names = ["sponsor", "committee-1", "committee-2", "clients"]
        for name, secret in zip(names, SECRETS, strict=True):
            content = create_keyfile_json(secret, self.PASSWORD.encode(), iterations=10)
            # As Geth and Foundry do it: others cannot read them.
            (tmp_path / f"{name}.json").touch(0o600)
            (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        return tmp_path

    def options(self, folder: Path) -> ChainOptions:
        return REMOTE.model_copy(update={"keystore": str(folder)})

    def test_keys_are_taken_from_it(self, folder: Path) -> None:
        environment = {"FEDMETA_KEYSTORE_PASSWORD": self.PASSWORD}
        keys = open_keys(self.options(folder), 1, environment)
        assert keys.sponsor.address == account_of(SECRETS[0])
        assert {m.address for m in keys.committee} == {account_of(s) for s in SECRETS[1:3]}
        clients = open_client_keys(self.options(folder), 1, RUN, environment)
        assert clients.address(0) == ClientKeys(SECRETS[3], RUN).address(0)

    def test_a_scrypt_file_as_geth_and_foundry_write_them_is_read(self, folder: Path) -> None:
        content = create_keyfile_json(SECRETS[0], self.PASSWORD.encode(), kdf="scrypt", iterations=2)
        (folder / "sponsor.json").write_text(json.dumps(content), encoding="utf-8")
        environment = {"FEDMETA_KEYSTORE_PASSWORD": self.PASSWORD}
        assert open_keys(self.options(folder), 1, environment).sponsor.address == account_of(SECRETS[0])

    def test_a_wrong_password_is_refused_and_not_shown(self, folder: Path) -> None:
        with pytest.raises(UsageError, match=r"does not open .*sponsor\.json: wrong password") as caught:
            open_keys(self.options(folder), 1, {"FEDMETA_KEYSTORE_PASSWORD": "guess"})
        assert "guess" not in str(caught.value)

    def test_a_missing_password_is_named(self, folder: Path) -> None:
        with pytest.raises(UsageError, match="FEDMETA_KEYSTORE_PASSWORD is not set"):
            open_keys(self.options(folder), 1, {})

    def test_a_missing_folder_or_file_is_named(self, folder: Path) -> None:
        environment = {"FEDMETA_KEYSTORE_PASSWORD": self.PASSWORD}
        with pytest.raises(UsageError, match=r"there is no folder .*nowhere"):
            open_keys(self.options(folder / "nowhere"), 1, environment)
        (folder / "committee-2.json").unlink()
        with pytest.raises(UsageError, match=r"there is no file .*committee-2\.json"):
            open_keys(self.options(folder), 1, environment)

    @pytest.mark.parametrize("bits", [0o644, 0o640, 0o604, 0o660, 0o602, 0o610])
    @pytest.mark.parametrize("name", ["sponsor", "committee-2", "clients"])
    def test_a_file_that_others_can_read_or_write_is_refused(
        self, folder: Path, name: str, bits: int
    ) -> None:
        (folder / f"{name}.json").chmod(bits)
        environment = {"FEDMETA_KEYSTORE_PASSWORD": self.PASSWORD}

        def opened() -> None:
            open_keys(self.options(folder), 1, environment)
            open_client_keys(self.options(folder), 1, RUN, environment)

        with pytest.raises(UsageError, match=rf"others can read or write .*{name}\.json: chmod 600 "):
            opened()
        (folder / f"{name}.json").chmod(0o400)
        opened()

    @pytest.mark.parametrize(
        "content", ["", "[]", "{}", "1", '{"version": 3}', '{"version": 9}', "\ud800"]
    )
    def test_an_invalid_key_file_is_refused(self, folder: Path, content: str) -> None:
        (folder / "sponsor.json").write_bytes(content.encode("utf-16", "surrogatepass"))
        with pytest.raises(UsageError, match="is not an encrypted key"):
            open_keys(self.options(folder), 1, {"FEDMETA_KEYSTORE_PASSWORD": self.PASSWORD})
        (folder / "sponsor.json").write_bytes(content.encode("utf-8", "surrogatepass"))
        with pytest.raises(UsageError, match="is not an encrypted key"):
            open_keys(self.options(folder), 1, {"FEDMETA_KEYSTORE_PASSWORD": self.PASSWORD})


class TestClientKeys:
    def test_every_client_run_and_secret_has_its_own_account(self) -> None:
        accounts = {
            ClientKeys(secret, run).address(client)
            for secret in (b"a", b"b")
            for run in (RUN, bytes(32))
            for client in (0, 1, 10**6)
        }
        assert len(accounts) == 12

    def test_it_signs_with_the_clients_key(self) -> None:
        keys = ClientKeys(b"secret", RUN)
        digest = update_digest(RUN, 1, 4, bytes(32))
        assert recover(digest, keys.sign(7, digest)) == keys.address(7)

    def test_24_updates_are_signed_and_checked_in_milliseconds(self) -> None:
        keys = ClientKeys(b"secret", RUN)
        accounts = [keys.address(client) for client in range(24)]
        best = float("inf")
        for _ in range(5):
            start = time.process_time()
            for client, account in enumerate(accounts):
                digest = update_digest(RUN, 1, 4, bytes(32))
                assert recover(digest, keys.sign(client, digest)) == account
            best = min(best, time.process_time() - start)
        # 1.6 ms with libsecp256k1; pure Python takes 100 times as long.
        assert best < 0.010
