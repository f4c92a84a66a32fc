"""Renders py-evm's blocks, receipts and errors as JSON-RPC."""

import re
from typing import Any

from eth.abc import BlockHeaderAPI, ComputationAPI, ReceiptAPI, SignedTransactionAPI
from eth.exceptions import Revert
from eth_bloom.bloom import BloomFilter

from fedmeta.chain.hashing import created_address, to_address

Json = dict[str, Any]


class Fault(Exception):
    """A JSON-RPC error."""

    def __init__(self, code: int, message: str, data: bytes | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


def refusal(error: Exception) -> Fault:
    """Translate py-evm's reason for refusing a transaction to other nodes' common wording."""
    reason = " ".join(str(error).split())
    if nonces := re.search(r"nonce: Expected (\d+), but got (\d+)", reason):
        word = "low" if int(nonces[2]) < int(nonces[1]) else "high"
        return Fault(-32000, f"nonce too {word}: next nonce {nonces[1]}, transaction has {nonces[2]}")
    if "afford" in reason or "enough balance" in reason:
        return Fault(-32000, f"insufficient funds: {reason}")
    return Fault(-32000, reason)


def raise_if_failed(computation: ComputationAPI) -> None:
    """Raise the fault of a failed call: code 3 with the data if a contract reverted."""
    if not computation.is_error:
        return
    error = computation.error
    if isinstance(error, Revert):
        raise Fault(3, "execution reverted", bytes(error.args[0]) if error.args else b"")
    raise Fault(-32000, f"execution failed: {type(error).__name__}: {error}")


def data(value: bytes) -> str:
    """Return bytes as 0x text."""
    return "0x" + value.hex()


def base_fee(header: BlockHeaderAPI) -> int:
    """Return a block's base fee, in wei per gas."""
    return header.base_fee_per_gas or 0


def block(header: BlockHeaderAPI, transactions: list[str]) -> Json:
    """Return a block; `transactions` are hashes."""
    return {
        "number": hex(header.block_number),
        "hash": data(header.hash),
        "parentHash": data(header.parent_hash or b""),
        "nonce": data(header.nonce),
        "sha3Uncles": data(header.uncles_hash),
        "logsBloom": data(header.bloom.to_bytes(256)),
        "transactionsRoot": data(header.transaction_root),
        "receiptsRoot": data(header.receipt_root),
        "stateRoot": data(header.state_root),
        "withdrawalsRoot": data(header.withdrawals_root or b""),
        "miner": to_address(header.coinbase),
        "difficulty": hex(header.difficulty),
        "totalDifficulty": "0x0",
        "mixHash": data(header.mix_hash),
        "extraData": data(header.extra_data),
        "gasLimit": hex(header.gas_limit),
        "gasUsed": hex(header.gas_used),
        "baseFeePerGas": hex(base_fee(header)),
        "timestamp": hex(header.timestamp),
        "transactions": transactions,
        "uncles": [],
        "withdrawals": [],
    }


def transaction(signed: SignedTransactionAPI, header: BlockHeaderAPI) -> Json:
    """Return a block's only transaction."""
    kind = getattr(signed, "type_id", None) or 0
    shown: Json = {
        "type": hex(kind),
        "chainId": hex(signed.chain_id or 0),
        "hash": data(signed.hash),
        "nonce": hex(signed.nonce),
        "blockHash": data(header.hash),
        "blockNumber": hex(header.block_number),
        "transactionIndex": "0x0",
        "from": to_address(signed.sender),
        "to": to_address(signed.to) if signed.to else None,
        "value": hex(signed.value),
        "gas": hex(signed.gas),
        "input": data(signed.data),
        "v": hex(signed.y_parity if kind else signed.v),  # type: ignore[attr-defined]
        "r": hex(signed.r),
        "s": hex(signed.s),
    }
    if kind == 2:
        tip = min(signed.max_priority_fee_per_gas, signed.max_fee_per_gas - base_fee(header))
        shown["maxFeePerGas"] = hex(signed.max_fee_per_gas)
        shown["maxPriorityFeePerGas"] = hex(signed.max_priority_fee_per_gas)
        shown["gasPrice"] = hex(base_fee(header) + tip)
    else:
        shown["gasPrice"] = hex(signed.gas_price)
    if kind:
        shown["accessList"] = [
            {"address": to_address(address), "storageKeys": [data(slot.to_bytes(32)) for slot in slots]}
            for address, slots in signed.access_list
        ]
        shown["yParity"] = shown["v"]
    return shown


def receipt(result: ReceiptAPI, shown: Json) -> Json:
    """Return the receipt of a block's only transaction; `shown` is that transaction, rendered."""
    place = {
        "transactionHash": shown["hash"],
        "transactionIndex": "0x0",
        "blockHash": shown["blockHash"],
        "blockNumber": shown["blockNumber"],
    }
    logs = [
        {
            **place,
            "logIndex": hex(index),
            "address": to_address(log.address),
            "topics": [data(topic.to_bytes(32)) for topic in log.topics],
            "data": data(log.data),
            "removed": False,
        }
        for index, log in enumerate(result.logs)
    ]
    sender, nonce = shown["from"], int(shown["nonce"], 16)
    return {
        **place,
        "type": shown["type"],
        "from": sender,
        "to": shown["to"],
        "contractAddress": None if shown["to"] else created_address(sender, nonce),
        "status": "0x1" if result.state_root == b"\x01" else "0x0",
        "gasUsed": hex(result.gas_used),
        "cumulativeGasUsed": hex(result.gas_used),
        "effectiveGasPrice": shown["gasPrice"],
        "logs": logs,
        "logsBloom": data(int(BloomFilter(result.bloom)).to_bytes(256)),
    }
