"""Whether what the chain needs is installed."""

from importlib.util import find_spec

from fedmeta.errors import UsageError

NO_EXTRA = "the chain needs its extra: pip install 'fedmeta[chain]'"

# Any one of them may be there for another reason.
_MODULES = ("coincurve", "eth", "eth_abi", "eth_keyfile", "rlp", "urllib3", "web3", "websockets")


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
