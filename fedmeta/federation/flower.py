"""Access to Flower's private names, and the base class of fedmeta's grids."""

import itertools
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import flwr
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from typing_extensions import override

from fedmeta.errors import FedmetaError

SUPPORTED = "flwr >=1.41,<1.43"

try:
    from flwr.app.metadata import Metadata
    from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
    from flwr.supercore.run import Run as Run
    from flwr.supercore.task_identity import TaskIdentity
except ImportError as error:
    raise FedmetaError(
        f"flwr {flwr.__version__} is not laid out as expected ({error}); install '{SUPPORTED}'"
    ) from error

NUMPY_STYPE = "numpy.ndarray"
_RUN = 1

RecordT = TypeVar("RecordT", ArrayRecord, ConfigRecord, MetricRecord, RecordDict)


def is_simulation(grid: Grid) -> bool:
    """Return whether a grid is that of Flower's simulation, where all nodes exist from the start."""
    # It imports Flower's whole server, which takes longer than the rest of Flower.
    from flwr.superlink.grid import InMemoryGrid

    return isinstance(grid, InMemoryGrid)


def new_run() -> Run:
    """Return an empty run, as an in-process grid needs one."""
    return Run.create_empty(_RUN)


def new_context(node: int, client: int, clients: int) -> Context:
    """Return the context of a node that holds one partition."""
    config: dict[str, bool | float | int | str] = {"partition-id": client, "num-partitions": clients}
    return Context(run_id=_RUN, node_id=node, node_config=config, state=RecordDict(), run_config={})


@contextmanager
def quiet(level: int = logging.WARNING) -> Iterator[None]:
    """Silence Flower's log in the block, except messages of at least a level."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def as_server(run: int = _RUN) -> Iterator[None]:
    """Let this process create messages as the server of a run in the block."""
    names = ("_run_id", "_node_id", "_task_id")
    before = [getattr(TaskIdentity, name) for name in names]
    for name, value in zip(names, (run, SUPERLINK_NODE_ID, 0), strict=True):
        setattr(TaskIdentity, name, value)
    try:
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(TaskIdentity, name, value)


def numpy_array(dtype: str, shape: tuple[int, ...], data: bytes) -> Array:
    """Return ``Array(dtype, shape, "numpy.ndarray", data)``.

    The public constructor's checks cost more than serializing a small array.
    """
    array = Array.__new__(Array)
    vars(array).update(dtype=dtype, shape=shape, stype=NUMPY_STYPE, data=data, _is_dirty=True)
    return array


def fill(record: RecordT, values: Mapping[str, Any]) -> RecordT:
    """Fill an empty record with values of the right types, without Flower's checks."""
    vars(record)["_data"].update(values)
    return record


def addressed(like: Message, content: RecordDict, node: int) -> Message:
    """Return a request with other content to another node, and with all else as in `like`.

    Flower's constructor takes several times as long, and a round has a request for each client.
    """
    made = Message.__new__(Message)
    metadata = _changed(like.metadata, _dst_node_id=node)
    vars(made).update(_metadata=metadata, _content=content, _error=None)
    return made


def _changed(metadata: Metadata, **values: Any) -> Metadata:
    made = Metadata.__new__(Metadata)
    vars(made).update(vars(metadata), **values)
    return made


class Unwritten(Protocol):
    """Content of a message that is not yet written as records."""

    def write(self) -> RecordDict:
        """Write it."""
        ...


class LazyReply(Message):
    """A reply that stays in this process, whose content is written when it is first read.

    Args:
        unwritten: Its content.
        reply_to: The request.
    """

    def __init__(self, unwritten: Unwritten, reply_to: Message) -> None:
        asked, now = reply_to.metadata, time.time()
        metadata = _changed(
            asked,
            _message_id="",
            _reply_to_message_id=asked.message_id,
            _src_node_id=asked.dst_node_id,
            _dst_node_id=asked.src_node_id,
            _src_task_id=asked.dst_task_id,
            _dst_task_id=asked.src_task_id,
            _created_at=now,
            _ttl=asked.created_at + asked.ttl - now,
        )
        vars(self).update(_metadata=metadata, _content=None, _error=None, _unwritten=unwritten)

    @property
    def unwritten(self) -> Unwritten | None:
        """The content, if nobody has read or replaced it, and so nobody can have changed it."""
        found: Unwritten | None = vars(self)["_unwritten"]
        return found

    @override
    def has_content(self) -> bool:
        return True

    @property
    @override
    def content(self) -> RecordDict:
        if (unwritten := self.unwritten) is not None:
            self.content = unwritten.write()
        found: RecordDict = vars(self)["_content"]
        return found

    @content.setter
    def content(self, value: RecordDict) -> None:
        vars(self).update(_content=value, _unwritten=None)


def stamp(message: Message, message_id: str) -> None:
    """Give a message its id, as a SuperLink would."""
    message.metadata.__dict__["_message_id"] = message_id


def client_error(reason: str, reply_to: Message) -> Message:
    """Return the error reply of a failed client, as Flower's own engines make it."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=reply_to)


def refused(reply: Message) -> str | None:
    """Return why a client could not answer; None if it did, or if the request was lost."""
    if not reply.has_error():
        return None
    own = (ErrorCode.CLIENT_APP_RAISED_EXCEPTION, ErrorCode.LOAD_CLIENT_APP_EXCEPTION)
    return " ".join((reply.error.reason or "").split()) if reply.error.code in own else None


def check_flower() -> str:
    """Check that Flower's messages work as expected, and return its version.

    Raises:
        FedmetaError: If the installed Flower does not work the way fedmeta needs.
    """
    try:
        with as_server():
            request = Message(RecordDict(), 2, "train")
            stamp(request, "1")
            reply = Message(RecordDict(), reply_to=request)
            works = reply.metadata.reply_to_message_id == "1" and new_run().run_id == _RUN
    except Exception as error:
        # Whatever an unknown version raises, the fix is the same.
        raise FedmetaError(f"flwr {flwr.__version__} failed ({error}); install '{SUPPORTED}'") from error
    if not works:
        raise FedmetaError(f"flwr {flwr.__version__} does not keep message ids; install '{SUPPORTED}'")
    return str(flwr.__version__)


def message_ids(prefix: str) -> Iterator[str]:
    """Yield ids that are unique within one grid."""
    return (f"{prefix}-{number}" for number in itertools.count(1))


class OwnGrid(Grid):
    """Base class of fedmeta's grids; creates messages as Flower's own grids do."""

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)


class RunGrid(OwnGrid):
    """Base class of grids that store their run.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def set_run(self, run: Run) -> None:
        """Set the run that the grid works for."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that the grid works for."""
        return self._run
