"""In-process Flower grid that computes a whole cohort in stacked batches."""

import copy
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import NamedTuple, overload

from flwr.app import Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from fedmeta.federation.accounts import Signatures
from fedmeta.federation.client import (
    ARRAYS,
    CONFIG,
    ROUND,
    StackedUpdate,
    build_client_app,
    evaluation_reply,
    failed,
    read_request,
    sign_reply,
    training_replies,
)
from fedmeta.federation.client_memory import COUNTED, MEMORY, OLDEST, StackMemory, read_counted
from fedmeta.federation.client_states import ClientStates
from fedmeta.federation.codec import Codec
from fedmeta.federation.engines.vector.jobs import EvaluateJob, Executor, Job, JobResult, TrainJob
from fedmeta.federation.evaluation import EvaluationSums
from fedmeta.federation.failures import Failure, report
from fedmeta.federation.faults import FaultPlan, mods_in
from fedmeta.federation.flower import (
    LazyReply,
    RunGrid,
    client_error,
    message_ids,
    new_context,
    new_run,
    stamp,
)
from fedmeta.federation.flower_replies import is_stock
from fedmeta.federation.learner import CohortUpdate, Learner
from fedmeta.learning import Tensors
from fedmeta.learning.device import one_thread

FIRST_NODE = 2
"""Node 1 is the server, as in Flower."""


class _Asked(NamedTuple):
    """A request, the client that it is for, and the client's own app; None: the common one."""

    message: Message
    client: int
    own_app: ClientApp | None


class VectorGrid(RunGrid):
    """Answers training and evaluation requests in chunks of clients, in the order of partition ids.

    A chunk's size depends only on the model, so results are the same bytes for any number of workers.
    Only one chunk's updates are in memory at a time. Anything but a plain request (a query, a client
    with mods) goes through the real ClientApp, one client at a time.

    Args:
        learner: The clients' side of the workload.
        executor: Computes the jobs.
        mods: Flower mods by client; they wrap only that client's app.
        signatures: Signs as each client; None: replies are not signed.
        faults: Faults of clients; one that moves comes back under another node id, which grows by the
            number of clients each time. See `with_faults` for faults of delivery. None: no faults.
        states: Clients' memory; None: it is held in RAM and lost with the grid.
    """

    def __init__(  # noqa: PLR0913 (all but two are optional)
        self,
        learner: Learner,
        executor: Executor,
        mods: Mapping[int, Sequence[Mod]] | None = None,
        signatures: Signatures | None = None,
        faults: FaultPlan | None = None,
        states: ClientStates | None = None,
    ) -> None:
        self.learner = learner
        self._memory = (
            StackMemory(learner, states or ClientStates()) if learner.memory_template else None
        )
        self.executor = executor
        self._clients = len(learner.workload.population)
        self._codec = Codec(learner.template)
        self._app = build_client_app(learner, (), signatures)
        self._mods = mods or {}
        self._mods_in = mods_in(faults, learner) if faults else None
        self._moving = faults is not None
        self._signatures = signatures
        self._modded = {
            client: build_client_app(learner, own, signatures) for client, own in self._mods.items()
        }
        self._contexts: dict[int, Context] = {}
        self._ids = message_ids("request")
        self._pushed: dict[str, Message] = {}
        super().__init__(new_run())

    def get_node_ids(self) -> Sequence[int]:
        """Return the nodes of all clients, without listing them."""
        return range(FIRST_NODE, FIRST_NODE + self._clients)

    def node_of(self, client: int) -> int:
        """Return the node that holds partition `client`."""
        return client + FIRST_NODE

    def client_of(self, node: int) -> int | None:
        """Return the partition that `node` holds, or held before it moved; None if there is none."""
        client = node - FIRST_NODE
        if self._moving and client >= 0:
            return client % self._clients
        return client if 0 <= client < self._clients else None

    def arrival(self, round_: int, client: int) -> float | None:  # noqa: ARG002 (no client is late here)
        """Return when the reply of a client arrives, in simulated seconds after the request."""
        return 0.0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Accept messages, to be answered when they are pulled."""
        ids = []
        for message in messages:
            message_id = next(self._ids)
            stamp(message, message_id)
            self._pushed[message_id] = message
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Answer pushed messages, each once."""
        known = (self._pushed.pop(message_id, None) for message_id in message_ids)
        return self._answer([message for message in known if message is not None], math.inf)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Yield the replies by partition id, computing each chunk on demand.

        Args:
            messages: Requests.
            timeout: Seconds after which no further chunk is started; None: no limit.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        pushed = [self._pushed.pop(message_id) for message_id in self.push_messages(messages)]
        return self._answer(pushed, deadline)

    def _answer(self, messages: list[Message], deadline: float) -> Iterator[Message]:
        messages.sort(key=self._client)
        for (kind, _), group in groupby(messages, key=self._broadcast):
            yield from self._answer_alike(kind, list(group), deadline)

    def _broadcast(self, message: Message) -> tuple[str, int]:
        """Return what the requests of clients that can be stacked have in common."""
        content = message.__dict__["_content"]
        # A broadcast is the same object for all; with clients' memory only the state is shared.
        shared = content.get(ARRAYS) if self._memory and COUNTED in content.get(CONFIG, {}) else content
        return message.metadata.message_type, id(shared)

    def _answer_alike(self, kind: str, messages: list[Message], deadline: float) -> Iterator[Message]:
        clients = [self._client(message) for message in messages]
        request = self._read(kind, messages[0]) if min(clients) >= 0 else None
        if request is None:
            apps = [self._modded.get(client, self._app) for client in clients]
            yield from self._ask_apps(messages, apps, deadline)
            return
        state, round_ = request
        own = [self._own_app(client, round_, kind) for client in clients]
        if all(own) or not _is_plain(messages[0]):
            yield from self._ask_apps(messages, [app or self._app for app in own], deadline)
            return
        asked = [_Asked(*one) for one in zip(messages, clients, own, strict=True)]
        size = self.learner.chunk_clients if kind == MessageType.TRAIN else 1
        chunks = [asked[first : first + size] for first in range(0, len(asked), size)]
        jobs = _Jobs(lambda chunk: self._job(kind, round_, chunk), chunks)
        for chunk, outcome in zip(chunks, self.executor.run(state, jobs, deadline), strict=False):
            yield from self._replies(chunk, outcome, round_)

    def _ask_apps(
        self, messages: list[Message], apps: list[ClientApp], deadline: float
    ) -> Iterator[Message]:
        for message, app in zip(messages, apps, strict=True):
            if time.monotonic() > deadline:
                return
            yield self._ask_app(message, app)

    def _read(self, kind: str, message: Message) -> tuple[Tensors, int] | None:
        """Decode a broadcast once for all its receivers; None if each needs its own call."""
        if kind not in (MessageType.TRAIN, MessageType.EVALUATE):
            return None
        if is_stock(message):
            return None
        try:
            arrays, round_ = read_request(message)
            return self._codec.decode(arrays), round_
        except (ValueError, AttributeError):
            return None

    def _job(self, kind: str, round_: int, chunk: Sequence[_Asked]) -> Job:
        # Clients with mods are in the stack too: mods of one client must not change the last bits of
        # another client's update.
        clients = tuple(asked.client for asked in chunk)
        if kind == MessageType.TRAIN:
            return TrainJob(round_, clients, self._remembered(chunk, clients))
        return EvaluateJob(clients[0], round_)

    def _remembered(self, chunk: Sequence[_Asked], clients: tuple[int, ...]) -> Tensors:
        """Return the memory that the clients of a chunk start from, as their requests say."""
        if not self._memory:
            return {}
        said = [read_counted(asked.message.content.config_records[CONFIG]) for asked in chunk]
        return self._memory.begin(clients, [last for last, _ in said], said[0][1])

    def _replies(self, chunk: Sequence[_Asked], outcome: JobResult, round_: int) -> Iterator[Message]:
        written, failures = self._contents(chunk, outcome, round_)
        for message, client, own in chunk:
            failure = failures.get(client)
            content = None if failure is not None else next(written)
            if own:
                yield self._ask_app(message, own)
            elif content is not None:
                yield self._reply(message, client, content)
            elif failure is not None:
                report(round_, client, failure)
                yield client_error(failure.reason, message)

    def _contents(
        self, chunk: Sequence[_Asked], outcome: JobResult, round_: int
    ) -> tuple[Iterator[RecordDict | StackedUpdate], dict[int, Failure]]:
        """Return the replies' contents of clients that succeeded, in order, and the failures."""
        if isinstance(outcome, CohortUpdate):
            forgot: Collection[int] = ()
            if self._memory:
                # Clients with mods are called one by one, and store their own memory there.
                own = {asked.client for asked in chunk if asked.own_app}
                alike = [client for client in outcome.clients if client not in own]
                forgot = self._memory.propose(round_, outcome, alike)
            return training_replies(self._codec, outcome, round_, forgot), outcome.failures
        if isinstance(outcome, EvaluationSums):
            return iter([evaluation_reply(outcome, round_)]), {}
        return iter(()), {chunk[0].client: outcome}

    def _reply(self, message: Message, client: int, content: RecordDict | StackedUpdate) -> Message:
        if isinstance(content, RecordDict):
            return Message(content, reply_to=message)
        if self._signatures is None and content.flat is not None:
            return LazyReply(content, reply_to=message)
        written = content.write()
        if self._signatures:
            sign_reply(written, client, self._codec, self._signatures)
        return Message(written, reply_to=message)

    def _client(self, message: Message) -> int:
        """Return the client that a request is for; -1 if there is none."""
        client = self.client_of(message.metadata.dst_node_id)
        return -1 if client is None else client

    def _own_app(self, client: int, round_: int, kind: str) -> ClientApp | None:
        """Return a client's own app in a round; None if it has the common one."""
        more = self._mods_in(round_, client) if self._mods_in and kind == MessageType.TRAIN else ()
        if not more:
            return self._modded.get(client)
        return build_client_app(self.learner, [*more, *self._mods.get(client, ())], self._signatures)

    def _ask_app(self, message: Message, app: ClientApp) -> Message:
        """Let one client's own ClientApp answer, as Flower's engines do."""
        node = message.metadata.dst_node_id
        client = self.client_of(node)
        if client is None:
            return client_error(f"there is no node {node}", message)
        context = self._contexts.pop(node, None) or new_context(node, client, self._clients)
        # As over a network, each client gets its own copy and cannot change the others'.
        own = copy.copy(message)
        own.__dict__["_content"] = copy.deepcopy(message.__dict__["_content"])
        with self._memory.states.in_context(client, context.state) if self._memory else nullcontext():
            reply = _call(app, own, context)
        if len(context.state):
            self._contexts[node] = context
        if not isinstance(reply, Message):
            return client_error(f"replied with {type(reply).__name__}, not a message", message)
        return reply if _from(reply, message) else client_error(_FORGED, message)


_SETTINGS = {ROUND, COUNTED, OLDEST, MEMORY}
"""Config keys that our server sends to its clients."""


def _is_plain(message: Message) -> bool:
    """Return whether a fedmeta request has no further settings."""
    return message.content.config_records[CONFIG].keys() <= _SETTINGS


class _Jobs(Sequence[Job]):
    """Builds each job on demand, so that clients' memory is loaded only then."""

    def __init__(
        self, make: Callable[[Sequence[_Asked]], Job], chunks: Sequence[Sequence[_Asked]]
    ) -> None:
        self._make = make
        self._chunks = chunks

    def __len__(self) -> int:
        return len(self._chunks)

    @overload
    def __getitem__(self, index: int) -> Job: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Job]: ...

    def __getitem__(self, index: int | slice) -> Job | Sequence[Job]:
        if isinstance(index, slice):
            return _Jobs(self._make, self._chunks[index])
        return self._make(self._chunks[index])


_FORGED = "replied in the name of another node or to another message"


def _call(app: ClientApp, message: Message, context: Context) -> Message:
    try:
        with one_thread():
            return app(message, context)
    except (Exception, SystemExit) as error:
        # A client's own code: whatever it raises fails that client only.
        return failed(error, message, context)


def _from(reply: Message, request: Message) -> bool:
    asked = request.metadata
    return (
        reply.metadata.src_node_id == asked.dst_node_id
        and reply.metadata.reply_to_message_id == asked.message_id
    )
