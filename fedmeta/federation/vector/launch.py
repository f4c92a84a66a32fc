"""Starts a worker process, with a connection on which no message that is cut short is waited for."""

import os
import socket
import struct
import subprocess
import sys
from multiprocessing.connection import Connection
from typing import IO, Any

MESSAGE_SECONDS = 60
"""How long a worker may take no byte, or give none, in the middle of a message."""


def launch(
    entry: str, output: IO[bytes] | None = None
) -> tuple["subprocess.Popen[bytes]", "Connection[Any, Any]"]:
    """Start a worker.

    Args:
        entry: Python code to run; it finds its end of the connection at the descriptor ``argv[1]``.
        output: Where its stdout and stderr go; None: where ours do.

    Returns:
        The process, and our end. It raises OSError where a message stands still for `MESSAGE_SECONDS`.
    """
    ours, theirs = socket.socketpair()
    for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
        # A worker that stands still in the middle of a message would hold us for ever.
        ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", MESSAGE_SECONDS, 0))
    environment = os.environ | {
        # The child must find the same modules, a user's own among them.
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "OMP_NUM_THREADS": "1",
    }
    with theirs:
        process = subprocess.Popen(
            # -P: the current folder is no place to look in before all others.
            [sys.executable, "-P", "-c", entry, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Its own session: Ctrl-C reaches only us. It ends when our end of the pair closes.
            start_new_session=True,
        )
    return process, Connection(ours.detach())
