"""What can go wrong with a chain, normalised: the same errors whatever node or library is behind it."""

from importlib.util import find_spec

from fedmeta.errors import RunError, UsageError


class ChainError(RunError):
    """Base of what a chain may answer; `RunError`, because it happens while things run."""


class ChainDownError(ChainError):
    """The node did not answer: nothing is known about the request, and it may be tried again later."""


class NoAnswerError(ChainDownError):
    """Something answered, and not with JSON-RPC."""


class BusyError(ChainDownError):
    """The node was asked too often, or has too much to do: it did nothing.

    Attributes:
        after: Seconds that it asks us to wait; 0 if it does not say.
    """

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(f"{message}: it is asked too often or has too much to do")
        self.after = after


class NoNodeError(ChainDownError, UsageError):
    """There is no node where one was asked for: nothing was started or changed."""

    exit_code = 2


class RpcError(ChainError):
    """The node refused a request.

    Attributes:
        code: The JSON-RPC error code, such as -32000.
        message: What the node said, in one line.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} (JSON-RPC error {code})")
        self.code = code
        self.message = message


class RevertedError(ChainError):
    """A contract refused a call or a transaction.

    Attributes:
        name: The custom error's name, ``Error`` (a ``require`` with text), ``Panic``, or ``""`` if the
            data is unknown or there is none.
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
    """A transaction waits for a block; there is nothing to do but to wait as well."""


class PoorAccountError(ChainError):
    """An account has too little of what it is to spend; somebody has to send it some."""


class WrongCampaignError(UsageError):
    """What is on the chain is not the campaign that was asked for; nothing was changed."""


NO_EXTRA = "the chain needs its extra: pip install 'fedmeta[chain]'"

# Any one of them may be there for another reason.
_MODULES = ("coincurve", "eth", "eth_abi", "eth_account", "rlp", "web3")


def has_extra() -> bool:
    """Tell whether the extra `chain` is installed; nothing of it is imported."""
    try:
        return all(find_spec(name) is not None for name in _MODULES)
    except ModuleNotFoundError:
        return False


def require_extra() -> None:
    """Refuse to go on without the extra `chain`; nothing of it is imported.

    Raises:
        UsageError: In one line that says what to install.
    """
    if not has_extra():
        raise UsageError(NO_EXTRA)
