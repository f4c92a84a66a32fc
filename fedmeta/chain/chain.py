"""A chain as a `Web3`, and how one is opened from its options."""

import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from web3 import Web3
from web3.middleware import AttributeDictMiddleware, ExtraDataToPOAMiddleware
from web3.providers import JSONBaseProvider
from web3.types import RPCEndpoint

from fedmeta.chain.contracts import chunks
from fedmeta.chain.errors import ChainDownError, ChainError, NoNodeError, RevertedError, RpcError
from fedmeta.chain.options import DEFAULT_CHAIN_ID, ChainOptions, expand
from fedmeta.chain.providers import PROVIDERS
from fedmeta.chain.rpc import Call, NodeErrors, to_error
from fedmeta.chain.urls import provider_at
from fedmeta.errors import UsageError
from fedmeta.files import one_line

_AT_ONCE = 200
"""Receipts that are asked for in one round trip."""
_LONGEST_EXTRA = 2 + 2 * 32
"""Characters of a block's extra data; proof of authority has its signatures there."""
# What nodes say of an instruction that their rules do not have, each in words of its own.
_UNKNOWN_CODE = re.compile("op_?code|not ?activated|invalid_?operation|bad ?instruction", re.IGNORECASE)


@dataclass(frozen=True)
class Receipt:
    """What became of a mined transaction.

    Attributes:
        succeeded: Whether no contract refused it.
        block: Hash of its block, 32 bytes.
        number: Of its block.
        gas: That it used.
    """

    succeeded: bool
    block: bytes
    number: int
    gas: int


class _Attributes(AttributeDictMiddleware):
    def wrap_make_batch_request(self, make_batch_request: Any) -> Any:
        # What `Chain.batch` returns is as it comes.
        return make_batch_request


class Chain(Web3):
    """A `Web3` whose errors are `ChainError`s; calls may come from several threads.

    It has no name service (ENS), follows no off-chain lookups, and knows proof of authority by its
    blocks.

    Args:
        provider: How to reach its node; `close` closes it.

    Attributes:
        name: What messages call the node.
        chain_id: As the node says.
        genesis: Hash of block 0, 32 bytes: which chain of that id it is.

    Raises:
        ChainDownError: If the node does not answer.
        ChainError: If what answers is no Ethereum node.
    """

    def __init__(self, provider: JSONBaseProvider) -> None:
        self._own: Any = provider
        provider.global_ccip_read_enabled = False
        middleware = [_Attributes, NodeErrors]
        super().__init__(provider, [(one, one.__name__) for one in middleware])
        self.name: str = getattr(provider, "name", str(provider))
        blocks = [("eth_getBlockByNumber", (number, False)) for number in ("0x0", "latest")]
        identity = self.batch([("eth_chainId", ()), *blocks])
        for answer in identity:
            if isinstance(answer, ChainError):
                raise answer
        try:
            self.chain_id = int(identity[0], 16)
            self.genesis = bytes.fromhex(identity[1]["hash"][2:])
            extra = [str(block.get("extraData")) for block in identity[1:]]
        except (TypeError, ValueError, KeyError, AttributeError):
            raise RpcError(0, f"{self.name} is no Ethereum node") from None
        if max(map(len, extra)) > _LONGEST_EXTRA:
            self.middleware_onion.inject(ExtraDataToPOAMiddleware, layer=0)

    def request(self, method: str, params: Sequence[object] = ()) -> Any:
        """Return the result of one JSON-RPC call as it comes (quantities and data are 0x text).

        Raises:
            ChainDownError: The node did not answer in time.
            RevertedError: A contract refused; its custom error decoded.
            RpcError: The node refused.
        """
        return self.manager.request_blocking(RPCEndpoint(method), list(params))

    def batch(self, calls: Sequence[Call]) -> list[Any]:
        """Return the results of several calls as they come, in one round trip.

        A call that failed has its `ChainError` in its place. Web3's own batches end at the first error,
        and four views of a contract take 15 times as long: 11 ms to 0.7.

        Raises:
            ChainDownError: The node did not answer in time.
        """
        if not calls:
            return []
        ask: Any = self._own.batch_request_func(self, self.middleware_onion)
        return [
            to_error(reply["error"]) if reply.get("error") is not None else reply.get("result")
            for reply in ask(list(calls))
        ]

    def receipts(self, transactions: Sequence[bytes]) -> list[Receipt | None]:
        """Return what became of transactions, given by their hashes; None of one that is not mined.

        Read here: web3's formatters take 8 times as long as the rest of it.
        """
        calls = [("eth_getTransactionReceipt", (f"0x{one.hex()}",)) for one in transactions]
        answers = [answer for some in chunks(calls, _AT_ONCE) for answer in self.batch(some)]
        return [_read_receipt(answer) for answer in answers]

    def is_past(self, moment: int) -> bool:
        """Tell whether the chain's time has come to `moment`, in seconds since 1970.

        A chain for development makes a block when it is sent something, so that its time may stand
        still: it is asked for a block if the clock says that it is late. Any other chain refuses.
        """
        if self._newest() < moment <= time.time():
            with suppress(RpcError):
                self.request("evm_mine")
        return self._newest() >= moment

    def _newest(self) -> int:
        return self.eth.get_block("latest")["timestamp"]

    def close(self) -> None:
        """Let go of the chain; if it is ours, stop it with its state saved. Twice is fine."""
        self._own.close()

    def __enter__(self) -> "Chain":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read_receipt(answer: Any) -> Receipt | None:
    """Return the receipt that a node gave, or None if there is none yet.

    Raises:
        ChainError: If that is what it gave, or it gave something else.
    """
    if answer is None:
        return None
    if isinstance(answer, ChainError):
        raise answer
    try:
        number, gas, status = (int(answer[name], 16) for name in ("blockNumber", "gasUsed", "status"))
        return Receipt(status == 1, bytes.fromhex(answer["blockHash"][2:]), number, gas)
    except (TypeError, ValueError, LookupError):
        raise RpcError(0, f"not a receipt: {one_line(answer, 200)}") from None


def open_chain(
    options: ChainOptions, folder: Path, environment: Mapping[str, str] = os.environ
) -> Chain:
    """Open the chain that `options.provider` names, starting it if it is ours.

    Args:
        options: Of the chain.
        folder: Where the state of a chain of ours is kept; made if missing. Unused for a URL.
        environment: Where ``${FEDMETA_RPC_...}`` in a URL is looked up.

    Raises:
        NoNodeError: If no node answers at the URL (`ChainDownError` and exit code 2 at once).
        UsageError: Another chain id than `options.chain_id`, a folder or port in use, no binary.
        RunError: If a node of ours does not start.
    """
    provider: Any
    if options.is_url:
        provider = provider_at(expand(options.provider, environment))
    elif options.enabled:
        chain_id = options.chain_id or DEFAULT_CHAIN_ID
        provider = PROVIDERS.get(options.provider)(folder, chain_id, options.port)
    else:
        raise UsageError("chain.provider = none: there is no chain")
    try:
        chain = Chain(provider)
        if options.chain_id not in (None, chain.chain_id):
            raise UsageError(
                f"{chain.name} has chain id {chain.chain_id}, and chain.chain_id = {options.chain_id}"
            )
    except BaseException as error:
        provider.close()
        if options.is_url and isinstance(error, ChainDownError):
            raise NoNodeError(str(error)) from None
        raise
    return chain


def require_rules(chain: Chain) -> None:
    """Refuse a node whose rules are older than those that the contracts are compiled for.

    It is asked to run code that begins with PUSH0, which came with Shanghai, and returns nothing.

    Raises:
        UsageError: If it does not know that instruction.
    """
    try:
        chain.eth.call({"data": "0x5f5ff3"})  # type: ignore[typeddict-item]
    except ChainError as error:
        if isinstance(error, RevertedError) or _UNKNOWN_CODE.search(str(error)):
            raise UsageError(
                f"{chain.name} has rules from before Shanghai, and the contracts need Shanghai's or "
                "later ones: start the node with them (Anvil: --hardfork shanghai), or use another"
            ) from None
