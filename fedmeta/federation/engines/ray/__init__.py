"""Options of Flower's Ray engine, and a check that it can run; nothing here imports Ray."""

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
        address: Address of a Ray cluster, such as ``192.168.0.1:6379``; ``auto``: the cluster that this
            machine is part of; ``local``: a new one on this machine, which ends with the run.
    """

    address: str = HERE


def require_ray(options: RayOptions | None = None) -> None:
    """Check that the extra is installed, and that a cluster's address answers.

    Raises:
        UsageError: If not.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError("engine = 'ray' needs the extra: pip install 'fedmeta[ray]'")
    address = options.address if options else HERE
    if address in (HERE, AUTO):
        return
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdecimal() and int(port) < 2**16):
        raise UsageError(f"ray.address = '{address}' is not HOST:PORT, 'auto' or 'local'")
    try:
        socket.create_connection((host, int(port)), REACH_SECONDS).close()
    except OSError as error:
        why = error.strerror or "no answer"
        raise UsageError(f"ray.address: no Ray cluster at {address} ({why})") from None
