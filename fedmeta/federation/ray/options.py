"""Where Flower's simulation engine runs, and whether it can; nothing here imports Ray."""

import importlib.util

from fedmeta.errors import UsageError
from fedmeta.options import Options

HERE = "local"


class RayOptions(Options):
    """Where Flower's simulation engine runs.

    Attributes:
        address: Of a Ray cluster, such as ``192.168.0.1:6379``; ``local``: one on this machine, which
            ends with the run.
    """

    address: str = HERE


def require_ray() -> None:
    """Check that the extra is installed.

    Raises:
        UsageError: If it is not.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError("engine = 'ray' needs the extra: pip install 'fedmeta[ray]'")
