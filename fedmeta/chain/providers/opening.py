"""From options to a chain."""

from pathlib import Path

from fedmeta.chain.options import ChainOptions
from fedmeta.chain.providers.base import Chain


def open_chain(options: ChainOptions, folder: Path) -> Chain:
    """Open the chain that `options.provider` names, starting it if it is ours.

    Args:
        options: Of the chain.
        folder: Where the state of a chain of ours is kept; made if missing. Unused for a URL.

    Raises:
        NoNodeError: If no node answers at the URL (`ChainDownError` and exit code 2 at once).
        UsageError: Another chain id than `options.chain_id`, a folder or port in use, no binary.
    """
    raise NotImplementedError
