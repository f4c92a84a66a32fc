"""The Flower ClientApp: one client's replies, and the form that they have."""

from collections.abc import Iterator, Sequence

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from fedmeta.federation.codec import Codec
from fedmeta.federation.evaluation import EvaluationSums
from fedmeta.federation.flower import fill
from fedmeta.federation.workload import CohortUpdate, Learner

ARRAYS = "arrays"
METRICS = "metrics"
CONFIG = "config"
ROUND = "round"
TASKS = "num-tasks"
PARTITION = "partition-id"


class ReplyWriter:
    """Turns what clients computed into the content of their replies.

    Args:
        codec: Of the state.
    """

    def __init__(self, codec: Codec) -> None:
        self.codec = codec

    def training(self, update: CohortUpdate, round_: int) -> Iterator[RecordDict]:
        """Yield the replies of ``update.clients``, in their order.

        Each is written when it is asked for, so that only one is in memory, and mostly in cache.
        """
        arrays = {key: value.numpy() for key, value in update.updates.items()}
        metrics = {name: value.tolist() for name, value in update.metrics.items()}
        for row in range(len(update.clients)):
            own = {key: stack[row] for key, stack in arrays.items()}
            values = {TASKS: update.tasks, **{name: column[row] for name, column in metrics.items()}}
            yield fill(
                RecordDict(),
                {
                    ARRAYS: self.codec.encode_arrays(own),
                    METRICS: fill(MetricRecord(), values),
                    CONFIG: fill(ConfigRecord(), {ROUND: round_}),
                },
            )

    @staticmethod
    def evaluation(sums: EvaluationSums, round_: int) -> RecordDict:
        """Return the reply of one evaluated client: sums over its tasks and nothing else."""
        metrics = MetricRecord({TASKS: sums.tasks})
        for name in sums.sums:
            metrics[f"{name}-sum"] = sums.sums[name]
            metrics[f"{name}-squares"] = sums.squares[name]
        return RecordDict({METRICS: metrics, CONFIG: ConfigRecord({ROUND: round_})})


def request_content(arrays: ArrayRecord, round_: int) -> RecordDict:
    """Return the content of a request, which all clients of a round share."""
    return RecordDict({ARRAYS: arrays, CONFIG: ConfigRecord({ROUND: round_})})


def read_request(message: Message) -> tuple[ArrayRecord, int]:
    """Return the state's arrays and the round that a request carries.

    Raises:
        ValueError: If it is no request of ours.
    """
    arrays, config = message.content.get(ARRAYS), message.content.get(CONFIG)
    round_ = config.get(ROUND) if isinstance(config, ConfigRecord) else None
    if not isinstance(arrays, ArrayRecord) or not isinstance(round_, int):
        raise ValueError(f"a request needs '{ARRAYS}' and a '{CONFIG}' with '{ROUND}'")
    return arrays, round_


def build_client_app(learner: Learner, mods: Sequence[Mod] = ()) -> ClientApp:
    """Build the ClientApp: the same work as a grid stacks, for a cohort of one.

    It answers ``train`` with the client's pseudo-gradient, task count and metrics, and ``evaluate``
    with sums over its evaluation tasks. Which client it is, the node's ``partition-id`` says.

    Args:
        learner: The clients' side of the workload.
        mods: Flower mods around both handlers.
    """
    app = ClientApp(mods=list(mods))
    codec = Codec(learner.template)
    writer = ReplyWriter(codec)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays, round_ = read_request(message)
        client = _partition(context)
        update = learner.train(codec.decode(arrays), round_, [client])
        if client in update.failures:
            raise RuntimeError(update.failures[client])
        return Message(next(writer.training(update, round_)), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        arrays, round_ = read_request(message)
        sums = learner.evaluate(codec.decode(arrays), _partition(context))
        return Message(writer.evaluation(sums, round_), reply_to=message)

    return app


def _partition(context: Context) -> int:
    client = context.node_config.get(PARTITION)
    if not isinstance(client, int):
        raise ValueError(f"the node's config has no '{PARTITION}'")
    return client
