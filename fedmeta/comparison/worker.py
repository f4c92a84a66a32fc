"""What runs in a worker process of a comparison: one run after another, until the parent is gone."""

import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NoReturn

from fedmeta.config import Config
from fedmeta.errors import FedmetaError, RunError
from fedmeta.experiment.api import resume, run
from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.made_with import Made, difference, entries
from fedmeta.experiment.result import Listener
from fedmeta.federation import RoundRecord
from fedmeta.options import parse_options

REPORT_SECONDS = 0.5
"""Time between two reports of a run's progress."""
FAREWELL_SECONDS = 20.0
"""How long a run may take to close its folder once the parent is gone."""


@dataclass(frozen=True)
class Order:
    """A run to do.

    Attributes:
        path: Its folder.
        config: Its resolved config, as plain values.
        made: What it must be made with: what the comparison found when it began.
        begun: Whether the folder is there and is resumed.
        experiment: The name that the run bears.
        command: How the comparison was started, as ``sys.argv``.
    """

    path: Path
    config: Mapping[str, Any]
    made: Made
    begun: bool
    experiment: str
    command: tuple[str, ...]


Message = (
    tuple[Literal["progress"], int, int]
    | tuple[Literal["note", "traceback", "failed"], str]
    | tuple[Literal["done"]]
)


def main() -> None:
    """Serve the parent, at file descriptor ``argv[1]``, until it closes the connection or dies."""
    connection: Connection[Message, Order] = Connection(int(sys.argv[1]))
    signal.signal(signal.SIGTERM, _interrupt)
    orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, orders), daemon=True).start()
    with suppress(KeyboardInterrupt):
        while True:
            order = orders.get()
            _send(connection, _carry_out(order, connection))


def _interrupt(*_: object) -> NoReturn:
    # The parent asks, and then its silence does: the second must not disturb the closing of a folder.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _receive(connection: "Connection[Message, Order]", orders: "queue.SimpleQueue[Order]") -> None:
    """Pass on orders; once the parent is gone, end this process, its run interrupted."""
    with suppress(EOFError, OSError):
        while True:
            orders.put(connection.recv())
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(FAREWELL_SECONDS)
    os._exit(1)


def _carry_out(order: Order, connection: "Connection[Message, Order]") -> Message:
    sys.argv = list(order.command)
    listener = _Reporter(order, connection).listener
    try:
        if order.begun:
            result = resume(order.path, listener=listener, check=False)
        else:
            config = parse_options(Config, order.config)
            # The comparison tried the parts of every arm when it began.
            result = run(config, out=order.path, listener=listener, check=False)
        if result.chain and result.chain["refused"]:
            # The model is there, which is what is compared; that nobody can be paid is worth a line.
            listener.note(result.chain["problem"])
    except FedmetaError as error:
        return "failed", str(error)
    except Exception as error:
        # A user's own part may fail in any way: that is this run's failure, not the comparison's.
        traceback.print_exc()
        return "failed", " ".join(f"{type(error).__name__}: {error}".split())
    return ("done",)


def _send(connection: "Connection[Message, Order]", message: Message) -> None:
    # A parent that is gone is noticed where orders are received.
    with suppress(OSError):
        connection.send(message)


class _Reporter:
    def __init__(self, order: Order, connection: "Connection[Message, Order]") -> None:
        self.order = order
        self.connection = connection
        self.rounds = 0
        self.last = 0.0
        self.listener = Listener(
            started=self._started, round=self._round, note=self._note, failure=self._failure
        )

    def _started(self, folder: RunFolder, config: Config, done: int) -> None:
        folder.update_info({"experiment": self.order.experiment})
        if why := difference(entries(folder.info), self.order.made):
            raise RunError(f"{why} since the comparison began: start it again")
        self.rounds = config.rounds
        _send(self.connection, ("progress", done, self.rounds))

    def _round(self, record: RoundRecord) -> None:
        now = time.monotonic()
        if now - self.last > REPORT_SECONDS or record.round == self.rounds:
            self.last = now
            _send(self.connection, ("progress", record.round, self.rounds))

    def _failure(self, text: str) -> None:
        _send(self.connection, ("traceback", text))

    def _note(self, line: str) -> None:
        _send(self.connection, ("note", line))
