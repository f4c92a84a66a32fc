"""Flower's simulation engine: where it runs, and whether it can; nothing here imports Ray."""

import importlib.util
import socket

from fedmeta.errors import UsageError
from fedmeta.options import Options

HERE = "local"
AUTO = "auto"
REACH_SECONDS = 10.0
"""How long a cluster may take to answer at its address."""


class RayOptions(Options):
    """Where Flower's simulation engine runs.

    Attributes:
        address: Of a Ray cluster, such as ``192.168.0.1:6379``; ``auto``: the one that this machine is
            part of; ``local``: one on this machine, which ends with the run.
    """

    address: str = HERE


def require_ray(options: RayOptions | None = None) -> None:
    """Check that the extra is installed, and that there is something at the address of a cluster.

    Raises:
        UsageError: If it is not, or nobody answers there.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError("engine = 'ray' needs the extra: pip install 'fedmeta[ray]'")
    address = options.address if options else HERE
    if address in (HERE, AUTO):
        return
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdecimal() and int(port) < 2**16):
        raise UsageError(f"ray.address = '{address}' is no HOST:PORT, 'auto' or 'local'")
    try:
        socket.create_connection((host, int(port)), REACH_SECONDS).close()
    except OSError as error:
        why = error.strerror or "no answer"
        raise UsageError(f"ray.address: there is no Ray cluster at {address} ({why})") from None
