"""A web3 that goes through a `Chain`, so that its errors are the same ones."""

import json
from typing import Any

from web3 import Web3
from web3.providers.base import JSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

from fedmeta.chain.providers.base import Chain


class ChainProvider(JSONBaseProvider):
    """Hands web3's requests to a chain."""

    def __init__(self, chain: Chain) -> None:
        super().__init__()
        self._chain = chain

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """Return the response to one request; see `Chain.request` for errors."""
        # web3 leaves bytes and its own mappings in the parameters; its encoder knows them.
        plain = json.loads(self.encode_rpc_request(method, params))["params"]
        return {"jsonrpc": "2.0", "id": 0, "result": self._chain.request(method, plain)}

    def is_connected(self, show_traceback: bool = False) -> bool:  # noqa: ARG002
        """Tell that there is a chain; its own errors say when there is none."""
        return True


def connect(chain: Chain) -> Web3:
    """Return a web3 on `chain`."""
    return Web3(ChainProvider(chain))
