"""A chain with injected faults."""

import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from web3.providers import JSONBaseProvider

from fedmeta.chain.chain import Chain
from fedmeta.chain.errors import ChainDownError, ChainError, RevertedError, RpcError
from fedmeta.chain.rpc import Call

SEND = "eth_sendRawTransaction"


class PassedOn(Chain):
    """A `Web3` on another chain, whose every request goes through `passed` or `passed_all`."""

    def __init__(self, inner: Chain) -> None:
        self.inner = inner
        self.opened = False
        super().__init__(_Provider(self))
        self.opened = True

    def passed(self, method: str, params: Sequence[object]) -> Any:
        return self.inner.request(method, params)

    def passed_all(self, calls: Sequence[Call]) -> list[Any]:
        return self.inner.batch(calls)


class _Provider(JSONBaseProvider):
    def __init__(self, chain: PassedOn) -> None:
        super().__init__()
        self.chain, self.name = chain, chain.inner.name

    def make_request(self, method: Any, params: Any) -> Any:
        return {"jsonrpc": "2.0", "id": 0, "result": self.chain.passed(method, params)}

    def make_batch_request(self, batch_requests: Any) -> Any:
        chain = self.chain if self.chain.opened else self.chain.inner
        answers = (
            chain.passed_all(batch_requests) if chain is self.chain else chain.batch(batch_requests)
        )
        return [{"id": n, **_reply(answer)} for n, answer in enumerate(answers)]

    def close(self) -> None:
        self.chain.inner.close()


def _reply(answer: Any) -> dict[str, Any]:
    if isinstance(answer, RevertedError):
        return {"error": {"code": 3, "message": "execution reverted", "data": "0x" + answer.data.hex()}}
    if isinstance(answer, RpcError):
        return {"error": {"code": answer.code, "message": answer.message}}
    return {"result": answer}


class FaultyChain(PassedOn):
    """Another chain with faults, drawn from a seed.

    A request is refused, or lost before it arrives, or answered by nobody although it arrived; a
    transaction is sent twice; and now and then the newest blocks vanish.

    Args:
        inner: The chain.
        seed: Of the faults.
        rate: Share of requests that something happens to.
        reorgs: Whether blocks vanish as well: ``anvil_reorg`` puts empty ones in their place,
            ``evm_revert`` none; None: they do not.
    """

    def __init__(
        self, inner: Chain, seed: object, rate: float = 0.15, reorgs: str | None = None
    ) -> None:
        super().__init__(inner)
        self.faults: Counter[str] = Counter()
        self._generator = random.Random(f"{seed}")
        self._rate = rate
        self._reorgs = reorgs
        self._snapshot: object = None

    def passed(self, method: str, params: Sequence[object]) -> Any:
        fault = self._fault()
        if fault == "refused":
            raise RpcError(-32000, "a fault of the test's")
        if fault == "lost":
            raise ChainDownError("a fault of the test's: not sent")
        if fault == "twice" and method == SEND:
            with suppress(ChainError):
                self.inner.request(method, params)
        if fault == "reorg":
            self._reorg()
        answer = self.inner.request(method, params)
        if fault == "unanswered":
            raise ChainDownError("a fault of the test's: not answered")
        return answer

    def passed_all(self, calls: Sequence[Call]) -> list[Any]:
        fault = self._fault()
        if fault in ("lost", "unanswered"):
            raise ChainDownError("a fault of the test's: no batch")
        answers = self.inner.batch(calls)
        if fault == "refused":
            answers[-1] = RpcError(-32000, "a fault of the test's")
        return answers

    def _fault(self) -> str | None:
        if self._generator.random() >= self._rate:
            return None
        faults = ["refused", "lost", "unanswered", "unanswered", "twice", "twice"]
        fault = self._generator.choice(faults + ["reorg"] * (self._reorgs is not None))
        self.faults[fault] += 1
        return fault

    def _reorg(self) -> None:
        if self._reorgs == "anvil_reorg":
            newest = int(self.inner.request("eth_blockNumber"), 16)
            depth = min(self._generator.randrange(1, 6), newest)
            if depth:
                self.inner.request("anvil_reorg", (depth, []))
        elif self._snapshot is None:
            self._snapshot = self.inner.request("evm_snapshot")
        else:
            self.inner.request("evm_revert", (self._snapshot,))
            self._snapshot = None
