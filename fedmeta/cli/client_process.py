"""Answers one SuperLink message in place of Flower's ``flwr-clientapp``.

The app that the SuperLink sent is neither unpacked nor loaded: the installed fedmeta answers. Like
`fedmeta.federation.flower` this touches what Flower keeps private, but before PyTorch is loaded: a
SuperNode starts another process if the first one has not reported within seconds.
"""

import sys
from typing import Any

from fedmeta.errors import FedmetaError


def _our_app(*_: Any, **__: Any) -> Any:
    from fedmeta.app import client_app

    return client_app


_OWN = {
    "install_from_fab": lambda *_, **__: None,
    "get_load_client_app_fn": lambda *_, **__: _our_app,
}


def answer() -> None:
    """Answer as ``flwr-clientapp`` would, with its arguments.

    Raises:
        FedmetaError: If the installed Flower has another layout: then nothing is run.
    """
    try:
        from flwr.supernode.cli import flwr_clientapp
        from flwr.supernode.runtime import run_clientapp as flowers
    except ImportError as error:
        raise FedmetaError(f"this flwr is not laid out as expected ({error})") from None
    for name, own in _OWN.items():
        if not hasattr(flowers, name):
            raise FedmetaError(f"this flwr is not laid out as expected (no {name})")
        setattr(flowers, name, own)
    sys.argv[0] = "flwr-clientapp"
    flwr_clientapp()
