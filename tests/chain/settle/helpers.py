"""Helpers for ledger tests."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedmeta.chain.chain import Chain
from fedmeta.chain.contracts import Contract
from fedmeta.chain.keys import Keys, open_keys
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.settle.deployment import Deployed
from fedmeta.chain.settle.journal_rows import Content, FrozenRound
from fedmeta.chain.settle.settlement import Hooks, Settled, Settlement
from fedmeta.chain.signing import Signer, ledger_domain, typed_digest
from tests.chain.settle.rounds import POT


def run_id(name: object) -> bytes:
    """The id of a run: tests that share a chain must not share a campaign."""
    return hashlib.sha256(str(name).encode()).digest()


def settle(
    folder: Path,
    options: ChainOptions,
    rounds: Sequence[FrozenRound],
    budget: int = 100 * POT,
    hooks: Hooks | None = None,
) -> Settled:
    """Freeze rounds, settle them, and return the outcome."""
    with Settlement(folder, options, run_id(folder), budget, hooks or Hooks()) as settlement:
        settlement.freeze(rounds[settlement.frozen :])
        settlement.start()
        return settlement.finish(60)


def earned(rounds: Sequence[FrozenRound]) -> dict[str, int]:
    """What each account earned, added up by hand."""
    units: Counter[str] = Counter()
    for frozen in rounds:
        for c in frozen.contributions:
            units[c.account] += c.reward
    return dict(units)


def held(token: Contract, accounts: Sequence[str]) -> dict[str, int]:
    return {account: token.call("balanceOf", account) for account in accounts}


def keys_of(folder: Path, options: ChainOptions) -> Keys:
    return open_keys(options, 31337)


def send(chain: Chain, signer: Signer, to: str, data: bytes, value: int = 0) -> dict[str, Any]:
    """Send a transaction from any account, and return its receipt."""
    nonce = int(chain.request("eth_getTransactionCount", (signer.address, "pending")), 16)
    fields = {"chainId": chain.chain_id, "nonce": nonce, "gas": 1_000_000, "to": to, "value": value}
    fields |= {"maxFeePerGas": 10**11, "maxPriorityFeePerGas": 10**9, "data": data}
    raw, digest = signer.sign_transaction(fields)
    chain.request("eth_sendRawTransaction", ("0x" + raw.hex(),))
    receipt: dict[str, Any] | None = None
    while receipt is None:
        receipt = chain.request("eth_getTransactionReceipt", ("0x" + digest.hex(),))
    return receipt


def record_as_committee(deployed: Deployed, keys: Keys, content: Content, epoch: int = 0) -> None:
    """Write a custom record on the chain, with real signatures of the committee."""
    ledger, campaign = deployed.ledger, bytes.fromhex(deployed.terms.campaign)
    domain = ledger_domain(ledger.chain.chain_id, ledger.address)
    signatures = keys.sign(deployed.terms.threshold, content.digest(domain, campaign, epoch))
    data = ledger.data("record", content.struct(), signatures)
    assert send(ledger.chain, keys.sponsor, ledger.address, data)["status"] == "0x1"


def veto_as_committee(
    deployed: Deployed, keys: Keys, first: int, roots: Sequence[bytes], epoch: int = 0
) -> None:
    """Veto the records from round `first` on, with real signatures of the committee."""
    ledger, campaign = deployed.ledger, bytes.fromhex(deployed.terms.campaign)
    domain = ledger_domain(ledger.chain.chain_id, ledger.address)
    digest = typed_digest(domain, "Veto", campaign, epoch, first, b"e" * 32)
    signatures = keys.sign(deployed.terms.threshold, digest)
    data = ledger.data("veto", first, list(roots), b"e" * 32, signatures)
    assert send(ledger.chain, keys.sponsor, ledger.address, data)["status"] == "0x1"
