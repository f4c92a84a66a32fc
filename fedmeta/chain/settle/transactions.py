"""Performs actions on the chain exactly once: a transaction is journaled before it is sent.

Account nonces do not guarantee exactly-once execution: Ganache executes a nonce-0 transaction every
time it is sent, and a second transaction for an action may follow a lost one. So each action has a check
on the chain, *is it done?*, made whenever a transaction may already have been sent; and the contracts
refuse to do it twice.
"""

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from web3.exceptions import TransactionNotFound

from fedmeta.chain.chain import Chain, Receipt
from fedmeta.chain.errors import ChainError, NotMinedError, PoorAccountError, RevertedError, RpcError
from fedmeta.chain.settle.journal import Journal
from fedmeta.chain.settle.journal_rows import Transaction
from fedmeta.chain.signing import Signer, offered_fees

Wait = Callable[[float], None]
"""Sleeps for the given seconds; may raise an error of the caller's to stop."""

TRIES = 8
PATIENCE = 30.0
_GWEI = 10**9
_LEAST_GAS = 21_000
# Nodes' various messages for a transaction with too low a fee.
_TOO_CHEAP = re.compile("underpriced|fee|gas ?price", re.IGNORECASE)


@dataclass(frozen=True)
class Action:
    """Something to do on the chain exactly once.

    Attributes:
        key: Its name in the journal; equal keys mean equal effects.
        to: Contract to call; None creates one.
        data: Call data, or creation code.
        gas: Gas limit; None: estimate it.
        value: Wei to send along.
    """

    key: str
    to: str | None
    data: bytes
    gas: int | None = None
    value: int = 0

    def call(self, sender: str) -> dict[str, object]:
        """Return the action as a JSON-RPC call object."""
        call: dict[str, object] = {"from": sender, "data": "0x" + self.data.hex()}
        call |= {"to": self.to} if self.to else {}
        call |= {"value": hex(self.value)} if self.value else {}
        return call | ({"gas": hex(self.gas)} if self.gas else {})


class Transactor:
    """Sends the transactions of one journal on one chain; `wait` waits for a block."""

    def __init__(self, chain: Chain, journal: Journal, wait: Wait = time.sleep) -> None:
        self.chain = chain
        self.journal = journal
        self._wait = wait
        self._slow: set[bytes] = set()

    def perform(self, action: Action, signer: Signer, done: Callable[[], bool]) -> bool:
        """Perform `action`, which was not done yet; may be called again after any error.

        Args:
            action: The action.
            signer: Sender of the transaction.
            done: Checks on the chain; called if a transaction may have been sent before.

        Returns:
            Whether a transaction of this journal did it; if not, the caller must find out who did.

        Raises:
            ChainDownError: The node is down; the fate of the last transaction is unknown.
            RevertedError: The contract refuses.
            PoorAccountError: The sender cannot pay for it.
            ChainError: The node keeps refusing, or contradicts itself.
        """
        for _ in range(TRIES):
            tried = self.journal.transactions(action.key)
            if tried:
                landed = [transaction for transaction in tried if self._follow(transaction)]
                if done():
                    return bool(landed)
                if landed:
                    raise ChainError(f"{action.key}: the node has the receipt, but not its effect")
            transaction = self._usable(action.key)
            if transaction is None or transaction.hash in self._slow or self._outpriced(transaction):
                transaction = self._prepare(action, signer, transaction)
            if self._send(transaction) and self._landed(transaction, action):
                return True
        raise ChainError(f"{action.key}: sent {TRIES} times, but not mined")

    def _follow(self, transaction: Transaction) -> bool:
        """Update a transaction in the journal; return whether it was mined and succeeded."""
        receipt = self._receipt(transaction)
        if receipt is None:
            # A reorganisation dropped it. Those that earlier versions marked as final stay so.
            if transaction.state in ("mined", "reverted"):
                self.journal.mark(transaction, "sent")
            return False
        return self._note(transaction, receipt)

    def _note(self, transaction: Transaction, receipt: Receipt) -> bool:
        if not receipt.succeeded:
            if transaction.state != "reverted":
                self.journal.mark(transaction, "reverted")
            return False
        if transaction.state not in ("mined", "final") or transaction.block_hash != receipt.block:
            self.journal.mined(transaction, receipt.block, receipt.number)
        return True

    def _usable(self, key: str) -> Transaction | None:
        """Return a transaction of the action that can still be mined; drop those that cannot."""
        for transaction in reversed(self.journal.transactions(key)):
            if transaction.state not in ("journaled", "sent"):
                continue
            nonce = self._nonce(transaction.sender)
            # With a nonce above the account's next one it waits for transactions that may never come, as
            # after a reorganisation; a lower nonce is used, perhaps by this transaction itself.
            if nonce == transaction.nonce:
                return transaction
            if nonce > transaction.nonce and self._known(transaction):
                return transaction
            self.journal.mark(transaction, "dropped")
        return None

    def _prepare(self, action: Action, signer: Signer, slow: Transaction | None) -> Transaction:
        """Sign and journal a new transaction, replacing `slow`, which is not being mined."""
        call = action.call(signer.address)
        try_out = "eth_estimateGas" if action.gas is None else "eth_call"
        answers = self.chain.batch(
            [
                ("eth_getTransactionCount", (signer.address, "pending")),
                ("eth_getBalance", (signer.address, "latest")),
                ("eth_getBlockByNumber", ("latest", False)),
                (try_out, (call,) if action.gas is None else (call, "pending")),
            ]
        )
        *known, tried = answers
        if failed := next((one for one in known if isinstance(one, ChainError)), None):
            raise failed
        refused = isinstance(tried, ChainError)
        gas = action.gas or (_LEAST_GAS if refused else int(tried, 16) * 5 // 4)
        fees = self._fees(known[2], slow)
        held, needed = int(known[1], 16), gas * max(fees.values()) + action.value
        if held < needed:
            # Checked first, as nodes' own messages for this vary.
            raise PoorAccountError(
                f"account {signer.address} has {held / 10**18:.6g} ETH on chain {self.chain.chain_id} "
                f"and needs {needed / 10**18:.6g}: fund it"
            )
        if refused:
            raise tried
        nonce = slow.nonce if slow else int(known[0], 16)
        values: dict[str, object] = {"chainId": self.chain.chain_id, "nonce": nonce, "gas": gas, **fees}
        values |= {"to": action.to or "", "value": action.value, "data": action.data}
        raw, digest = signer.sign_transaction(values)
        transaction = Transaction(digest, action.key, signer.address, nonce, raw)
        self.journal.add(transaction)
        return transaction

    def _fees(self, block: Mapping[str, Any], slow: Transaction | None) -> dict[str, int]:
        if block.get("baseFeePerGas") is None:
            fees = {"gasPrice": int(self.chain.eth.gas_price)}
        else:
            # Twice the base fee suffices through six full blocks in a row; unused fees are not paid.
            most = 2 * int(block["baseFeePerGas"], 16) + self._tip
            fees = {"maxFeePerGas": most, "maxPriorityFeePerGas": self._tip}
        if slow is None:
            return fees
        # Nodes accept a replacement that pays at least 10% more.
        before = offered_fees(slow.raw)
        return {name: max(fee, before.get(name, 0) * 5 // 4 + 1) for name, fee in fees.items()}

    def _outpriced(self, transaction: Transaction) -> bool:
        """Return whether the base fee exceeds a transaction's offer, so it cannot be mined now."""
        least = self.chain.eth.get_block("latest").get("baseFeePerGas", 0)
        return max(offered_fees(transaction.raw).values()) < least

    @cached_property
    def _tip(self) -> int:
        try:
            return self.chain.eth.max_priority_fee
        except RpcError:
            return _GWEI

    def _send(self, transaction: Transaction) -> bool:
        """Send a transaction; return whether the node now has it."""
        try:
            self.chain.eth.send_raw_transaction(transaction.raw)
        except (RpcError, RevertedError) as error:
            # Already known, already mined, replaced, or refused: the node's state tells.
            if not self._known(transaction):
                if self._nonce(transaction.sender) == transaction.nonce:
                    if not _TOO_CHEAP.search(str(error)):
                        raise
                    # The next one has its nonce and offers more.
                    self._slow.add(transaction.hash)
                    return False
                self.journal.mark(transaction, "dropped")
                return False
        if transaction.state == "journaled":
            self.journal.mark(transaction, "sent")
        return True

    def _landed(self, transaction: Transaction, action: Action) -> bool:
        """Wait for the receipt; return False if the transaction was lost, raise if it was reverted."""
        pause, end = 0.001, time.monotonic() + PATIENCE
        while (receipt := self._receipt(transaction)) is None:
            if not self._known(transaction) and self._receipt(transaction) is None:
                return False
            if pause > 0.2 and self._nonce(transaction.sender) < transaction.nonce:
                return False
            if time.monotonic() > end:
                self._slow.add(transaction.hash)
                raise NotMinedError(f"{action.key}: not mined after {PATIENCE:g} s; still waiting")
            self._wait(pause)
            pause = min(pause * 1.5, 0.5)
        if self._note(transaction, receipt):
            return True
        # Call the contract again for the reason, which a receipt lacks.
        self.chain.eth.call(action.call(transaction.sender))  # type: ignore[arg-type]
        raise ChainError(f"{action.key}: the contract refused it, but would accept it now")

    def _receipt(self, transaction: Transaction) -> Receipt | None:
        return self.chain.receipts([transaction.hash])[0]

    def _known(self, transaction: Transaction) -> bool:
        """Return whether the node has a transaction, mined or not."""
        with suppress(TransactionNotFound):
            self.chain.eth.get_transaction(transaction.hash)  # type: ignore[arg-type]
            return True
        return False

    def _nonce(self, sender: str) -> int:
        return self.chain.eth.get_transaction_count(sender, "pending")  # type: ignore[arg-type]
