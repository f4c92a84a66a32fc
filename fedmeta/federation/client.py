"""The Flower ClientApp, and the format of its requests and replies."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    ConfigRecordValues,
    Context,
    Message,
    MessageType,
    MetricRecord,
    MetricRecordValues,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable, Mod
from numpy.typing import NDArray

from fedmeta.federation.accounts import NONCE, PROOF, SIGNATURE, Proving, Signing
from fedmeta.federation.client_memory import FORGOT, ClientMemory
from fedmeta.federation.codec import Codec, CodecError
from fedmeta.federation.evaluation import EvaluationSums
from fedmeta.federation.failures import failure_of, report
from fedmeta.federation.flower import client_error, fill
from fedmeta.federation.flower_replies import METRICS as METRICS
from fedmeta.federation.flower_replies import ROUND as ROUND
from fedmeta.federation.flower_replies import SERVER_ROUND, StockReplies, is_stock, with_proximal
from fedmeta.federation.learner import CohortUpdate, Learner

ARRAYS = "arrays"
CONFIG = "config"
TASKS = "num-tasks"
DIVERGED = "diverged"
PARTITION = "partition-id"


@dataclass(slots=True)
class StackedUpdate:
    """One client's training reply, as a row of the stack in which it was computed.

    Attributes:
        codec: Codec of the state.
        arrays: The updates of the stack's C clients, ``[C, ...]`` by key.
        flat: The same as ``[C, n]`` (see `Codec.flat_stacks`); None if they do not fit the codec.
        row: The client's row.
        metrics: Its task count and metrics.
        config: The round, and whether the client lost its memory.
    """

    codec: Codec
    arrays: Mapping[str, NDArray[Any]]
    flat: Sequence[NDArray[Any]] | None
    row: int
    metrics: dict[str, MetricRecordValues]
    config: dict[str, ConfigRecordValues]

    def write(self) -> RecordDict:
        """Write it as Flower's records."""
        own = {key: stack[self.row] for key, stack in self.arrays.items()}
        return fill(
            RecordDict(),
            {
                ARRAYS: self.codec.encode_arrays(own),
                METRICS: fill(MetricRecord(), self.metrics),
                CONFIG: fill(ConfigRecord(), self.config),
            },
        )


def training_replies(
    codec: Codec, update: CohortUpdate, round_: int, forgot: Collection[int] = ()
) -> Iterator[StackedUpdate]:
    """Yield the replies of ``update.clients``, in their order.

    Args:
        codec: Codec of the state.
        update: What they computed.
        round_: The round.
        forgot: Clients that lost their memory.
    """
    arrays = {key: value.numpy() for key, value in update.updates.items()}
    metrics = {name: value.tolist() for name, value in update.metrics.items()}
    flat = codec.flat_stacks(arrays)
    for row, client in enumerate(update.clients):
        values = {TASKS: update.tasks, **{name: column[row] for name, column in metrics.items()}}
        config: dict[str, ConfigRecordValues] = {ROUND: round_}
        if client in forgot:
            config[FORGOT] = True
        yield StackedUpdate(codec, arrays, flat, row, values, config)


def evaluation_reply(sums: EvaluationSums, round_: int) -> RecordDict:
    """Return the reply of one evaluated client: sums over its tasks, no per-task values."""
    metrics = MetricRecord({TASKS: sums.tasks, DIVERGED: sums.diverged})
    for name in sums.sums:
        metrics[f"{name}-sum"] = sums.sums[name]
        metrics[f"{name}-squares"] = sums.squares[name]
    return RecordDict({METRICS: metrics, CONFIG: ConfigRecord({ROUND: round_})})


def request_content(
    arrays: ArrayRecord, round_: int, more: Mapping[str, ConfigRecordValues] | None = None
) -> RecordDict:
    """Return the content of a request, which all clients of a round share.

    Args:
        arrays: The state.
        round_: The round.
        more: Further config that a user's strategy sends.
    """
    return RecordDict({ARRAYS: arrays, CONFIG: ConfigRecord({**(more or {}), ROUND: round_})})


def read_request(message: Message) -> tuple[ArrayRecord, int]:
    """Return the state's arrays and the round of a request.

    Raises:
        ValueError: If it is not a fedmeta request.
    """
    arrays, config = message.content.get(ARRAYS), message.content.get(CONFIG)
    round_ = config.get(ROUND) if isinstance(config, ConfigRecord) else None
    if not isinstance(arrays, ArrayRecord) or not isinstance(round_, int):
        raise ValueError(
            f"a request needs '{ARRAYS}' and a '{CONFIG}' with '{SERVER_ROUND}', as Flower's strategies "
            f"send it, or '{ROUND}', as fedmeta's server does"
        )
    return arrays, round_


def sign_reply(reply: RecordDict, client: int, codec: Codec, signatures: Signing) -> None:
    """Sign a training reply; anything but an update stays unsigned, and the gate refuses it."""
    arrays, metrics, config = reply.get(ARRAYS), reply.get(METRICS), reply.get(CONFIG)
    if not (isinstance(arrays, ArrayRecord) and isinstance(metrics, MetricRecord)):
        return
    if not isinstance(config, ConfigRecord):
        return
    round_, tasks = config.get(ROUND), metrics.get(TASKS)
    if not (isinstance(round_, int) and isinstance(tasks, int)):
        return
    try:
        digest = codec.digest(arrays)
    except CodecError:
        return
    config[SIGNATURE] = signatures.sign(client, round_, tasks, digest)


def _signing(codec: Codec, signatures: Signing) -> Mod:
    """Return the mod that signs a client's reply after its other mods have changed it."""

    def sign(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        client = partition_of(context)
        reply = call_next(message, context)
        if message.metadata.message_type == MessageType.TRAIN and reply.has_content():
            sign_reply(reply.content, client, codec, signatures)
        return reply

    return sign


def build_client_app(
    learner: Learner,
    mods: Sequence[Mod] = (),
    signatures: Signing | None = None,
    stock: bool | None = None,
) -> ClientApp:
    """Build the ClientApp, which computes one client as the vector grid computes a stack.

    It answers ``train`` with the client's pseudo-gradient, task count and metrics, ``evaluate`` with
    sums over its evaluation tasks, and ``query`` with its partition, proved if the request asks for it
    and the client has a key. The node's ``partition-id`` says which client it is. A request of one of
    Flower's own strategies, which has a ``server-round``, is answered in their format: weights, and
    metrics with ``num-examples`` (see `StockReplies`).

    Args:
        learner: The clients' side of the workload.
        mods: Flower mods around both handlers.
        signatures: Signs the client's replies; None: replies are not signed.
        stock: Whether to answer in the format of Flower's strategies; None: the request decides.
    """
    codec = Codec(learner.template)
    signing = [_signing(codec, signatures)] if signatures else []
    app = ClientApp(mods=[*signing, *mods])
    flowers = StockReplies(learner)

    def for_flower(message: Message) -> bool:
        return is_stock(message) if stock is None else stock

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = partition_of(context)
        if for_flower(message):
            return flowers.train(message, client)
        arrays, round_ = read_request(message)
        config = message.content.config_records[CONFIG]
        own = with_proximal(learner, config)
        memory = ClientMemory(learner, config, context)
        update = own.train(codec.decode(arrays), round_, [client], memory.begin())
        if client in update.failures:
            report(round_, client, update.failures[client])
            return client_error(update.failures[client].reason, message)
        memory.propose(round_, update.memory)
        forgot = [client] if memory.forgot else []
        reply = next(training_replies(codec, update, round_, forgot))
        return Message(reply.write(), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        if for_flower(message):
            return flowers.evaluate(message, partition_of(context))
        arrays, round_ = read_request(message)
        sums = learner.evaluate(codec.decode(arrays), partition_of(context), round_)
        return Message(evaluation_reply(sums, round_), reply_to=message)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        client = partition_of(context)
        held = ConfigRecord({PARTITION: client})
        asked = message.content.get(CONFIG)
        nonce = asked.get(NONCE) if isinstance(asked, ConfigRecord) else None
        if isinstance(nonce, bytes) and isinstance(signatures, Proving):
            held[PROOF] = signatures.prove(context.node_id, client, nonce)
        return Message(RecordDict({CONFIG: held}), reply_to=message)

    return app


def failed(error: BaseException, message: Message, context: Context) -> Message:
    """Return a one-line error reply for a client whose code raised, and report the traceback."""
    failure = failure_of(error)
    try:
        client, round_ = partition_of(context), read_request(message)[1]
    except Exception:
        # Not a fedmeta request, or one that a mod corrupted.
        client, round_ = None, 0
    report(round_, client, failure)
    return client_error(failure.reason, message)


def partition_of(context: Context) -> int:
    """Return the partition that a node holds.

    Raises:
        ValueError: If its config does not name one.
    """
    client = context.node_config.get(PARTITION)
    if not isinstance(client, int):
        raise ValueError(f"the node's config has no '{PARTITION}'")
    return client
