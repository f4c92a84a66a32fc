"""What JSON-RPC answers when something is wrong, in the words of other nodes."""

import re

from eth.abc import ComputationAPI
from eth.exceptions import Revert


class Fault(Exception):
    """What JSON-RPC answers instead of a result."""

    def __init__(self, code: int, message: str, data: bytes | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


def refusal(error: Exception) -> Fault:
    """Return py-evm's reason to refuse a transaction as other nodes give it, where they agree."""
    reason = " ".join(str(error).split())
    if nonces := re.search(r"nonce: Expected (\d+), but got (\d+)", reason):
        word = "low" if int(nonces[2]) < int(nonces[1]) else "high"
        return Fault(-32000, f"nonce too {word}: next nonce {nonces[1]}, transaction has {nonces[2]}")
    if "afford" in reason or "enough balance" in reason:
        return Fault(-32000, f"insufficient funds: {reason}")
    return Fault(-32000, reason)


def raise_if_failed(computation: ComputationAPI) -> None:
    """Raise the fault of a call that failed: code 3 with the data if a contract refused."""
    if not computation.is_error:
        return
    error = computation.error
    if isinstance(error, Revert):
        raise Fault(3, "execution reverted", bytes(error.args[0]) if error.args else b"")
    raise Fault(-32000, f"execution failed: {type(error).__name__}: {error}")
