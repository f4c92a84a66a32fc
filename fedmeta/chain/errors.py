"""Errors of a chain, the same for all nodes and libraries."""

from importlib.util import find_spec

from fedmeta.errors import RunError, UsageError


class ChainError(RunError):
    """Base class of chain errors; a `RunError`, because they occur during a run."""


class ChainDownError(ChainError):
    """The node did not answer: the fate of the request is unknown; try again later."""


class NoAnswerError(ChainDownError):
    """The answer is not JSON-RPC."""


class BusyError(ChainDownError):
    """The node is overloaded, did nothing, and asks us to wait for `after` seconds (0: not given)."""

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(f"{message}: it is rate-limiting requests or overloaded")
        self.after = after


class NoNodeError(ChainDownError, UsageError):
    """No node answers at the configured URL: nothing was started or changed."""

    exit_code = 2


class RpcError(ChainError):
    """The node refused a request, with a JSON-RPC error code and a message of one line."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} (JSON-RPC error {code})")
        self.code = code
        self.message = message


class RevertedError(ChainError):
    """A contract reverted a call or a transaction.

    Attributes:
        name: The custom error's name, ``Error`` (a ``require`` with text), ``Panic``, or ``""`` if the
            data is missing or unknown.
        arguments: The custom error's arguments in order: int, bool, bytes, str (addresses checksummed).
        data: The raw revert data.
    """

    def __init__(self, name: str, arguments: tuple[object, ...] = (), data: bytes = b"") -> None:
        shown = ", ".join(f"0x{a.hex()}" if isinstance(a, bytes) else str(a) for a in arguments)
        what = f"{name}({shown})" if name else f"no known reason (data 0x{data.hex()})"
        super().__init__(f"the contract refused: {what}")
        self.name = name
        self.arguments = arguments
        self.data = data


class NotMinedError(ChainError):
    """A transaction is not mined yet; wait."""


class PoorAccountError(ChainError):
    """An account lacks the tokens or ether it has to spend; it must be funded."""


class WrongCampaignError(UsageError):
    """The chain holds another campaign than requested; nothing was changed."""


NO_EXTRA = "the chain needs an optional extra: pip install 'fedmeta[chain]'"

# All are checked, as any one may be installed for another reason.
_MODULES = ("coincurve", "eth", "eth_abi", "eth_account", "rlp", "web3")


def has_extra() -> bool:
    """Return whether the extra `chain` is installed, without importing it."""
    try:
        return all(find_spec(name) is not None for name in _MODULES)
    except ModuleNotFoundError:
        return False


def require_extra() -> None:
    """Require the extra `chain`, without importing it.

    Raises:
        UsageError: If it is missing; the message says what to install.
    """
    if not has_extra():
        raise UsageError(NO_EXTRA)
