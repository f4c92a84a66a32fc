"""What runs in a Ray worker: it builds its side of the workload once, whatever it is asked how often."""

import pickle
from collections.abc import Callable
from functools import lru_cache, partial

from flwr.app import Context
from flwr.clientapp import ClientApp

from fedmeta.federation.engines.client_app import ClientSide, build_remote_app
from fedmeta.learning import keep_freed_memory


def build_ray_app(build: Callable[[], ClientSide]) -> ClientApp:
    """Build the ClientApp that Flower sends to a worker with each message: a few kilobytes.

    Args:
        build: Builds the clients' side in the worker; it must be picklable, and small when pickled.
    """
    return build_remote_app(partial(_side, pickle.dumps(build)))


def _side(pickled: bytes, _: Context) -> ClientSide:
    return _build(pickled)


@lru_cache(maxsize=1)
def _build(pickled: bytes) -> ClientSide:
    keep_freed_memory()
    build: Callable[[], ClientSide] = pickle.loads(pickled)
    return build()
