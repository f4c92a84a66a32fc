"""The embedded chain's machine: one transaction per block, executed by py-evm under Shanghai's rules.

Of py-evm only the virtual machine is used: its chain class also handles forks and gaps, which a single
writer does not have. eth-tester gives blocks random fields, so a reopened chain would have other hashes.
With the two a transaction takes three times as long.
"""

import time
from dataclasses import dataclass

import rlp  # type: ignore[import-untyped]
from eth.abc import BlockHeaderAPI, ComputationAPI, SignedTransactionAPI, StateAPI
from eth.consensus.context import ConsensusContext
from eth.db.chain import ChainDB
from eth.db.trie import make_trie_root_and_nodes
from eth.exceptions import PyEVMError
from eth.vm.chain_context import ChainContext
from eth.vm.forks.shanghai import ShanghaiVM
from eth.vm.forks.shanghai.blocks import ShanghaiBlockHeader
from eth.vm.spoof import SpoofTransaction
from eth_keys.exceptions import BadSignature
from eth_typing import Address, BlockNumber
from eth_utils.exceptions import ValidationError

from fedmeta.chain.evm import render
from fedmeta.chain.evm.render import Fault, raise_if_failed, refusal
from fedmeta.chain.evm.store import Store

GAS_LIMIT = 60_000_000
_FIRST_BASE_FEE = 10**9
_OFFSET = "seconds ahead of the clock"
_BUILDER = ShanghaiVM.get_transaction_builder()
_MALFORMED = (rlp.exceptions.RLPException, ValidationError, PyEVMError, ValueError, TypeError)


@dataclass(frozen=True)
class Call:
    """A call without effect on the state; empty `to` creates a contract, `gas` 0 means no limit."""

    sender: bytes
    to: bytes
    data: bytes
    value: int
    gas: int


class Machine:
    """Executes transactions on the state in a store, and stores the results."""

    def __init__(self, store: Store, chain_id: int) -> None:
        self.store = store
        self.chain_id = chain_id
        self._chain = ChainContext(chain_id)
        self._database = ChainDB(store)
        self._offset = int(store.note(_OFFSET) or 0)
        self._next_timestamp: int | None = None
        self._head: BlockHeaderAPI | None = None

    def create(self, balances: dict[bytes, int], identity: bytes) -> None:
        """Make the genesis block, with each account's wei.

        Up to 32 bytes of `identity` are stored in the block, so each chain has its own hashes.
        """
        blank = ShanghaiBlockHeader(difficulty=0, block_number=BlockNumber(-1), gas_limit=0, timestamp=0)
        state = ShanghaiVM.build_state(self.store, blank, self._chain)
        for account, balance in balances.items():
            state.set_balance(Address(account), balance)
        state.persist()
        header = ShanghaiVM.create_genesis_header(
            difficulty=0,
            extra_data=identity,
            gas_limit=GAS_LIMIT,
            nonce=bytes(8),
            state_root=state.state_root,
            timestamp=int(time.time()),
            base_fee_per_gas=_FIRST_BASE_FEE,
        )
        self._add(header)

    @property
    def number(self) -> int:
        """Number of the last block."""
        return self._last().block_number

    def header(self, number: int) -> BlockHeaderAPI:
        """Return a block's header; a `Fault` if there is no such block."""
        if self._head is not None and self._head.block_number == number:
            return self._head
        encoded = self.store.header(number)
        if encoded is None:
            raise Fault(-32001, f"there is no block {number}")
        header: BlockHeaderAPI = rlp.decode(encoded, sedes=ShanghaiBlockHeader)
        return header

    def state(self, number: int) -> StateAPI:
        """Return the state after a block, for reading only."""
        return self._machine(self.header(number)).state

    def submit(self, raw: bytes) -> str:
        """Execute a signed transaction in its own block, and return its hash.

        A reverted transaction is mined too, with its status in the receipt.

        Raises:
            Fault: If it is malformed, has a wrong nonce, or lacks funds or fee; nothing is mined.
        """
        transaction = self._decode(raw)
        header = self._pending()
        machine = self._machine(header)
        try:
            receipt, _ = machine.apply_transaction(header, transaction)
        except (ValidationError, BadSignature, PyEVMError) as error:
            self.store.forget()
            raise refusal(error) from None
        machine.state.persist()
        header = machine.add_receipt_to_header(header, receipt).copy(
            state_root=machine.state.state_root,
            transaction_root=make_trie_root_and_nodes((transaction,))[0],
            receipt_root=make_trie_root_and_nodes((receipt,))[0],
        )
        body = render.transaction(transaction, header)
        self._add(header, body, render.receipt(receipt, body))
        return str(body["hash"])

    def mine(self) -> None:
        """Add a block without transactions."""
        self._add(self._pending())

    def call(self, call: Call, number: int) -> bytes:
        """Return the result of a call on the state after a block.

        Raises:
            Fault: Code 3 with the revert data if it reverts, -32000 if it fails otherwise.
        """
        computation = self._try(call, number, call.gas or GAS_LIMIT)
        raise_if_failed(computation)
        return bytes(computation.output)

    def estimate(self, call: Call, number: int) -> int:
        """Return an amount of gas with which a call succeeds; see `call` for errors."""
        most = call.gas or GAS_LIMIT
        computation = self._try(call, number, most)
        raise_if_failed(computation)
        # What it uses is nearly always enough, except where a contract withholds part of its gas.
        enough = most - computation.get_gas_remaining()
        while enough < most and self._try(call, number, enough).is_error:
            enough = min(enough + enough // 16, most)
        return enough

    def advance(self, seconds: int) -> int:
        """Advance the chain's clock, and return how many seconds it is ahead of ours."""
        self._offset += seconds
        self.store.remember(_OFFSET, str(self._offset))
        return self._offset

    def set_next_timestamp(self, timestamp: int) -> None:
        """Set the next block's timestamp, after the last one; the clock goes on from it."""
        last = self._last().timestamp
        if timestamp <= last:
            raise Fault(-32602, f"timestamp {timestamp} is not after the last block's, {last}")
        self._next_timestamp = timestamp
        self.advance(timestamp - int(time.time()) - self._offset)

    def rewind(self, number: int) -> None:
        """Drop all blocks after a block."""
        self.store.drop_after(number)
        self._head = None

    def _decode(self, raw: bytes) -> SignedTransactionAPI:
        try:
            transaction = _BUILDER.decode(raw)
        except _MALFORMED as error:
            raise Fault(-32000, f"not a signed transaction: {error}") from None
        if transaction.chain_id != self.chain_id:
            raise Fault(-32000, f"invalid chain id: {transaction.chain_id}, not {self.chain_id}")
        if self.store.transaction(render.data(transaction.hash)):
            raise Fault(-32000, "already known")
        return transaction

    def _last(self) -> BlockHeaderAPI:
        if self._head is None:
            number = self.store.head()
            assert number is not None
            self._head = self.header(number)
        return self._head

    def _pending(self) -> BlockHeaderAPI:
        parent = self._last()
        # Blocks of one second share a timestamp, as on Anvil and Ganache: the chain must not run ahead
        # of the clock, which deadlines refer to.
        clock = max(int(time.time()) + self._offset, parent.timestamp)
        header: BlockHeaderAPI = ShanghaiVM.create_header_from_parent(
            parent, gas_limit=parent.gas_limit, timestamp=self._next_timestamp or clock
        )
        return header

    def _machine(self, header: BlockHeaderAPI) -> ShanghaiVM:
        return ShanghaiVM(header, self._database, self._chain, ConsensusContext(self.store))

    def _try(self, call: Call, number: int, gas: int) -> ComputationAPI:
        # Free, so any account may call; as on any node, the result is for the next block.
        parent = self.header(number)
        header = self._pending() if number == self.number else parent
        header = header.copy(base_fee_per_gas=0, state_root=parent.state_root)
        state = self._machine(header).state
        transaction = _BUILDER.create_unsigned_transaction(
            nonce=state.get_nonce(Address(call.sender)),
            gas_price=0,
            gas=gas,
            to=Address(call.to),
            value=call.value,
            data=call.data,
        )
        spoof = SpoofTransaction(transaction, from_=call.sender)
        try:
            return state.apply_transaction(spoof)  # type: ignore[arg-type]
        except (ValidationError, PyEVMError) as error:
            raise refusal(error) from None
        finally:
            self.store.forget()

    def _add(
        self,
        header: BlockHeaderAPI,
        transaction: render.Json | None = None,
        receipt: render.Json | None = None,
    ) -> None:
        encoded = rlp.encode(header)
        # py-evm looks up recent block hashes here.
        self.store[header.hash] = encoded
        body = render.block(header, [transaction["hash"]] if transaction else [])
        self.store.add(encoded, body, transaction, receipt)
        self._next_timestamp = None
        self._head = header
