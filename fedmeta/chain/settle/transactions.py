"""One action, done once: journaled before it is sent, and done when the chain says so.

Account nonces do not give exactly-once: Ganache executes a nonce-0 transaction as often as it is sent,
and a second transaction for the same action may follow a lost one. So each action comes with a question
to the chain, *is it done?*, which is asked whenever something may already have been sent; and the
contracts refuse to do it twice.
"""

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from web3.exceptions import BlockNotFound, TransactionNotFound

from fedmeta.chain.chain import Chain, Receipt
from fedmeta.chain.errors import ChainError, NotMinedError, PoorAccountError, RevertedError, RpcError
from fedmeta.chain.settle.journal import Journal
from fedmeta.chain.settle.journal_rows import Transaction
from fedmeta.chain.signing import Signer, offered_fees

Wait = Callable[[float], None]
"""Sleeps for some seconds; raises an error of its caller's when it is time to stop."""

TRIES = 8
PATIENCE = 30.0
_GWEI = 10**9
_LEAST_GAS = 21_000
# What nodes say of a transaction that offers too little, each in words of its own.
_TOO_CHEAP = re.compile("underpriced|fee|gas ?price", re.IGNORECASE)


@dataclass(frozen=True)
class Action:
    """Something to be done on the chain once.

    Attributes:
        key: Names it in the journal; the same key always means the same effect.
        to: Contract that is called; None creates one.
        data: Call data, or creation code.
        gas: Limit; None: estimate it.
        value: Wei to send along.
    """

    key: str
    to: str | None
    data: bytes
    gas: int | None = None
    value: int = 0

    def call(self, sender: str) -> dict[str, object]:
        """Return it as JSON-RPC asks for it."""
        call: dict[str, object] = {"from": sender, "data": "0x" + self.data.hex()}
        call |= {"to": self.to} if self.to else {}
        call |= {"value": hex(self.value)} if self.value else {}
        return call | ({"gas": hex(self.gas)} if self.gas else {})


class Transactor:
    """Sends the transactions of one journal on one chain.

    Args:
        chain: Where to.
        journal: Where each transaction is written down first.
        wait: How to wait for a block.
    """

    def __init__(self, chain: Chain, journal: Journal, wait: Wait = time.sleep) -> None:
        self.chain = chain
        self.journal = journal
        self._wait = wait
        self._slow: set[bytes] = set()
        self._tip: int | None = None

    def perform(self, action: Action, signer: Signer, done: Callable[[], bool]) -> bool:
        """Do `action` unless it is done; after any error it may be called again.

        Args:
            action: What to do; the caller has found that it is not done.
            signer: Who sends it.
            done: Asks the chain; called if something for this action may have been sent before.

        Returns:
            Whether a transaction of this journal did it; if not, the caller has to see who did what.

        Raises:
            ChainDownError: The node is away; nothing is known about what was sent last.
            RevertedError: The contract refuses.
            PoorAccountError: The sender cannot pay for it.
            ChainError: The node keeps refusing, or answers in contradictions.
        """
        for _ in range(TRIES):
            tried = self.journal.transactions(action.key)
            if tried:
                landed = [transaction for transaction in tried if self._follow(transaction)]
                if done():
                    return bool(landed)
                if landed:
                    raise ChainError(f"{action.key}: the node has the receipt, and not what it did")
            transaction = self._usable(action.key)
            if transaction is None or transaction.hash in self._slow or self._outpriced(transaction):
                transaction = self._prepare(action, signer, transaction)
            if self._send(transaction) and self._landed(transaction, action):
                return True
        raise ChainError(f"{action.key}: sent {TRIES} times, and not mined")

    def _follow(self, transaction: Transaction) -> bool:
        """Bring the journal up to date about a transaction; return whether it was mined and worked."""
        receipt = self._receipt(transaction)
        if receipt is None:
            # A reorganisation took it back. What is final stays so: an old receipt may be forgotten.
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
        """Return a transaction for the action that can still be mined; give up those that cannot."""
        for transaction in reversed(self.journal.transactions(key)):
            if transaction.state not in ("journaled", "sent"):
                continue
            nonce = self._nonce(transaction.sender)
            # A nonce above the account's next one waits for others that may never come, as after a
            # reorganisation; one below is taken, unless by this transaction itself.
            if nonce == transaction.nonce:
                return transaction
            if nonce > transaction.nonce and self._known(transaction):
                return transaction
            self.journal.mark(transaction, "dropped")
        return None

    def _prepare(self, action: Action, signer: Signer, slow: Transaction | None) -> Transaction:
        """Sign a new transaction and write it down; it takes the place of one that nobody mines.

        Raises:
            RevertedError: If the contract would refuse; nothing is sent then.
        """
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
        for answer in known:
            if isinstance(answer, ChainError):
                raise answer
        refused = isinstance(tried, ChainError)
        gas = action.gas or (_LEAST_GAS if refused else int(tried, 16) * 5 // 4)
        fees = self._fees(known[2], slow)
        # Nodes say this in words of their own; so it comes first.
        self._require(signer.address, int(known[1], 16), gas * max(fees.values()) + action.value)
        if refused:
            raise tried
        nonce = slow.nonce if slow else int(known[0], 16)
        values: dict[str, object] = {"chainId": self.chain.chain_id, "nonce": nonce, "gas": gas, **fees}
        values |= {"value": action.value, "data": action.data}
        values |= {"to": action.to} if action.to else {}
        raw, digest = signer.sign_transaction(values)
        transaction = Transaction(digest, action.key, signer.address, nonce, raw)
        self.journal.add(transaction)
        return transaction

    def _require(self, sender: str, balance: int, needed: int) -> None:
        if balance < needed:
            raise PoorAccountError(
                f"account {sender} has {balance / 10**18:.6g} ETH on chain {self.chain.chain_id} "
                f"and needs {needed / 10**18:.6g}: send it some"
            )

    def _fees(self, block: Mapping[str, Any], slow: Transaction | None) -> dict[str, int]:
        if block.get("baseFeePerGas") is None:
            fees = {"gasPrice": int(self.chain.eth.gas_price)}
        else:
            # Twice the base fee lasts for six full blocks in a row; what is not used is not paid.
            tip = self._find_tip()
            most = 2 * int(block["baseFeePerGas"], 16) + tip
            fees = {"maxFeePerGas": most, "maxPriorityFeePerGas": tip}
        if slow is None:
            return fees
        # Nodes take a replacement that pays a tenth more.
        before = offered_fees(slow.raw)
        return {name: max(fee, before.get(name, 0) * 5 // 4 + 1) for name, fee in fees.items()}

    def _outpriced(self, transaction: Transaction) -> bool:
        """Tell whether the base fee rose above all that a transaction offers: no block takes it now."""
        least = self.chain.eth.get_block("latest").get("baseFeePerGas", 0)
        return max(offered_fees(transaction.raw).values()) < least

    def _find_tip(self) -> int:
        if self._tip is None:
            try:
                self._tip = self.chain.eth.max_priority_fee
            except RpcError:
                self._tip = _GWEI
        return self._tip

    def _send(self, transaction: Transaction) -> bool:
        """Send a transaction; return whether the node has it now."""
        try:
            self.chain.eth.send_raw_transaction(transaction.raw)
        except (RpcError, RevertedError) as error:
            # Known already, mined already, displaced, or refused: the node's state says which.
            if not self._known(transaction):
                if self._nonce(transaction.sender) == transaction.nonce:
                    if not _TOO_CHEAP.search(str(error)):
                        raise
                    # It keeps its nonce for the next one, which offers more.
                    self._slow.add(transaction.hash)
                    return False
                self.journal.mark(transaction, "dropped")
                return False
        if transaction.state == "journaled":
            self.journal.mark(transaction, "sent")
        return True

    def _landed(self, transaction: Transaction, action: Action) -> bool:
        """Wait for the receipt; return False if the transaction was lost on the way.

        Raises:
            RevertedError: If it was mined and the contract refused.
        """
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
        # Ask the contract again why: a receipt does not say.
        self.chain.eth.call(action.call(transaction.sender))  # type: ignore[arg-type]
        raise ChainError(f"{action.key}: it was refused, and would not be now")

    def _receipt(self, transaction: Transaction) -> Receipt | None:
        return self.chain.receipts([transaction.hash])[0]

    def _known(self, transaction: Transaction) -> bool:
        """Tell whether the node has a transaction, mined or not."""
        with suppress(TransactionNotFound):
            self.chain.eth.get_transaction(transaction.hash)  # type: ignore[arg-type]
            return True
        return False

    def _nonce(self, sender: str) -> int:
        return self.chain.eth.get_transaction_count(sender, "pending")  # type: ignore[arg-type]


FINAL_AFTER = 64
"""Blocks on top of a transaction after which it counts as final where a node names no final block."""


def note_final(transactor: Transactor) -> None:
    """Mark what is too deep to be taken back, and send back to ``sent`` what was taken back."""
    chain, journal = transactor.chain, transactor.journal
    mined = [t for t in journal.pending() if t.state == "mined" and t.block_number is not None]
    if not mined:
        return
    deepest, receipts = _final_block(chain), chain.receipts([one.hash for one in mined])
    for transaction, receipt in zip(mined, receipts, strict=True):
        if receipt is None:
            journal.mark(transaction, "sent")
        elif receipt.block != transaction.block_hash:
            journal.mined(transaction, receipt.block, receipt.number)
        elif receipt.number <= deepest:
            journal.mark(transaction, "final")


def _final_block(chain: Chain) -> int:
    newest = chain.eth.block_number
    try:
        return min(chain.eth.get_block("finalized")["number"], newest)
    except (RpcError, BlockNotFound):
        return newest - FINAL_AFTER
