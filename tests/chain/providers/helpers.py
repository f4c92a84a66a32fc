"""Helpers for chain tests: signed transactions, and waiting for them."""

import time
from pathlib import Path
from typing import Any

import pytest

from fedmeta.chain import Chain, ChainOptions
from fedmeta.chain.contracts import load_artifact
from fedmeta.chain.keys import development_keys
from fedmeta.chain.node import Node, start_node
from fedmeta.chain.providers.anvil import Anvil
from fedmeta.chain.signing import Signer

SPONSOR, *OTHERS = (Signer(key) for key in development_keys(6))
NOBODY = "0x" + "33" * 20
TOKEN = load_artifact("FedToken")
SUPPLY = 10**12


def options(provider: str) -> ChainOptions:
    return ChainOptions(provider=provider)


def start_shared_anvil(folder: Path) -> Node:
    """Start an Anvil for many tests: its state, which grows, is not written to disk every second."""
    saving = Anvil.arguments

    def unsaved(*args: Any) -> list[str]:
        found = saving(*args)
        for option in ("--state", "--state-interval"):
            place = found.index(option)
            del found[place : place + 2]
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Anvil, "arguments", staticmethod(unsaved))
        return start_node("anvil", folder)


def sign(nonce: int, signer: Signer = SPONSOR, **fields: Any) -> tuple[str, str]:
    """Return a signed transaction and its hash, as 0x text."""
    fees = {"maxFeePerGas": 10 * 10**9, "maxPriorityFeePerGas": 10**9}
    raw, digest = signer.sign_transaction(
        {"chainId": 31337, "nonce": nonce, "gas": 100_000, **fees, **fields}
    )
    return "0x" + raw.hex(), "0x" + digest.hex()


def number(text: str) -> int:
    return int(text, 16)


def receipt(chain: Chain, digest: str) -> dict[str, Any]:
    """Return the receipt of a transaction that was sent."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        found: dict[str, Any] | None = chain.request("eth_getTransactionReceipt", (digest,))
        if found:
            return found
        time.sleep(0.002)
    raise AssertionError("no receipt")


def send(chain: Chain, signed: tuple[str, str]) -> dict[str, Any]:
    """Send a transaction and return its receipt."""
    assert chain.request("eth_sendRawTransaction", (signed[0],)) == signed[1]
    return receipt(chain, signed[1])


def next_nonce(chain: Chain, signer: Signer = SPONSOR) -> int:
    return number(chain.request("eth_getTransactionCount", (signer.address, "latest")))


def deploy_token(chain: Chain) -> str:
    """Deploy a token and return its address."""
    creation = TOKEN.creation("Federated", "FED", SUPPLY)
    deployed = send(chain, sign(next_nonce(chain), data=creation, gas=3_000_000))
    return str(deployed["contractAddress"])


def balance(chain: Chain, account: str) -> int:
    return number(chain.request("eth_getBalance", (account, "latest")))


def call(token: str, sender: str, function: str, *arguments: object) -> dict[str, str]:
    """Return a call of the token's, as JSON-RPC wants it."""
    return {"from": sender, "to": token, "data": "0x" + TOKEN.encode(function, *arguments).hex()}


def latest(chain: Chain) -> dict[str, Any]:
    block: dict[str, Any] = chain.request("eth_getBlockByNumber", ("latest", False))
    return block
