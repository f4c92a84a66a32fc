"""Digests are EIP-712's: eth-account encodes the same values from the types alone."""

import time
from typing import Any

import pytest
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak

from fedmeta.chain.signing import (
    ledger_domain,
    presence_digest,
    registration_digest,
    registry_domain,
    typed_digest,
    update_digest,
)

CONTRACT = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
ACCOUNT = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
CHAIN_ID = 31337


def word(value: int) -> bytes:
    return keccak(value.to_bytes(32))


def oracle(domain: dict[str, Any], name: str, fields: str, values: list[Any]) -> bytes:
    members = [dict(zip(("type", "name"), field.split(), strict=True)) for field in fields.split(",")]
    message = {member["name"]: value for member, value in zip(members, values, strict=True)}
    signable = encode_typed_data(domain, {name: members}, message)
    return keccak(b"\x19" + signable.version + signable.header + signable.body)


def on_chain(name: str) -> dict[str, Any]:
    return {"name": name, "version": "1", "chainId": CHAIN_ID, "verifyingContract": CONTRACT}


RECORD = [word(1), 2, 3, 2**64 - 1, word(5), word(6), word(7), word(8), 2**255 + 9]
VETO = [word(1), 2, 3, word(4)]
SLASH = [ACCOUNT, 10**20, word(2), 4]


def test_a_record_is_hashed_as_eip_712_says() -> None:
    fields = (
        "bytes32 campaign,uint64 epoch,uint64 firstRound,uint64 lastRound,bytes32 rewardsRoot,"
        "bytes32 contributionsRoot,bytes32 modelHash,bytes32 evidenceHash,uint256 total"
    )
    expected = oracle(on_chain("fedmeta RewardLedger"), "Record", fields, RECORD)
    assert typed_digest(ledger_domain(CHAIN_ID, CONTRACT), "Record", *RECORD) == expected


def test_a_veto_is_hashed_as_eip_712_says() -> None:
    fields = "bytes32 campaign,uint64 epoch,uint64 firstRound,bytes32 evidenceHash"
    expected = oracle(on_chain("fedmeta RewardLedger"), "Veto", fields, VETO)
    assert typed_digest(ledger_domain(CHAIN_ID, CONTRACT), "Veto", *VETO) == expected


def test_a_slashing_is_hashed_as_eip_712_says() -> None:
    fields = "address account,uint256 amount,bytes32 evidenceHash,uint64 nonce"
    domain = on_chain("fedmeta ParticipantRegistry")
    expected = oracle(domain, "Slash", fields, SLASH)
    assert typed_digest(registry_domain(CHAIN_ID, CONTRACT), "Slash", *SLASH) == expected


def test_an_update_is_hashed_as_eip_712_says_without_any_chain() -> None:
    domain = {"name": "fedmeta update", "version": "1"}
    fields = "bytes32 run,uint64 round,uint64 tasks,bytes32 update"
    expected = oracle(domain, "Update", fields, [word(1), 7, 4, word(2)])
    assert update_digest(word(1), 7, 4, word(2)) == expected


def test_a_registration_is_hashed_as_eip_712_says() -> None:
    domain = {"name": "fedmeta node", "version": "1"}
    fields = "string federation,uint64 partition,bytes32 key"
    expected = oracle(domain, "Registration", fields, ["our-study", 2**32 - 1, word(1)])
    assert registration_digest("our-study", 2**32 - 1, word(1)) == expected


def test_a_presence_is_hashed_as_eip_712_says() -> None:
    domain = {"name": "fedmeta node", "version": "1"}
    fields = "bytes32 run,uint64 node,uint64 partition,bytes32 nonce"
    expected = oracle(domain, "Presence", fields, [word(1), 2**64 - 1, 3, word(2)])
    assert presence_digest(word(1), 2**64 - 1, 3, word(2)) == expected


def test_another_chain_or_contract_is_another_digest() -> None:
    digests = {
        typed_digest(ledger_domain(chain_id, contract), "Record", *RECORD)
        for chain_id in (1, CHAIN_ID)
        for contract in (ACCOUNT, CONTRACT)
    }
    assert len(digests) == 4


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(OverflowError):
        update_digest(word(1), 2**64, 4, word(2))
    with pytest.raises(OverflowError):
        update_digest(word(1), 1, -1, word(2))


def test_hashes_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 33"):
        update_digest(word(1), 1, 1, word(2) + b"\0")


def test_a_digest_takes_microseconds() -> None:
    start = time.process_time()
    for round_ in range(2_000):
        update_digest(word(1), round_, 4, word(2))
    # 2 us with the C module, 20 us without.
    assert (time.process_time() - start) / 2_000 < 100e-6
