"""Worker process of a comparison, which does one run after another until its parent is gone."""

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
from fedmeta.experiment.made_with import Made, difference, made_entries
from fedmeta.experiment.result import Listener
from fedmeta.federation import RoundRecord
from fedmeta.options import parse_options

REPORT_SECONDS = 0.5
"""Seconds between progress reports."""
FAREWELL_SECONDS = 20.0
"""How long a run may take to close its folder once the parent is gone."""


@dataclass(frozen=True)
class Order:
    """A run to do.

    Attributes:
        path: Its folder.
        config: Its resolved config, as plain values.
        made: The code and data of the comparison, which the run must be made with.
        begun: Whether the folder exists and is to be resumed.
        experiment: The experiment's name in the run.
        command: The comparison's ``sys.argv``.
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
    # Ignore a second signal, when the parent is gone, so that it does not disturb closing the folder.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _receive(connection: "Connection[Message, Order]", orders: "queue.SimpleQueue[Order]") -> None:
    """Queue orders; once the parent is gone, interrupt the run and end this process."""
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
            # The comparison has checked the parts of every arm at its start.
            result = run(config, out=order.path, listener=listener, check=False)
        if result.chain and result.chain["refused"]:
            # The comparison only needs the model, so failed payments are just noted.
            listener.note(result.chain["problem"])
    except FedmetaError as error:
        return "failed", str(error)
    except Exception as error:
        # A user's own part may fail in any way, which fails this run but not the comparison.
        traceback.print_exc()
        return "failed", " ".join(f"{type(error).__name__}: {error}".split())
    return ("done",)


def _send(connection: "Connection[Message, Order]", message: Message) -> None:
    # `_receive` notices when the parent is gone.
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
        if why := difference(made_entries(folder.info), self.order.made):
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
