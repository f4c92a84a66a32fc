"""The one strategy: sample, ask, admit, aggregate, step, evaluate, report."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, ConfigRecordValues, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from numpy.typing import NDArray
from typing_extensions import override

from fedmeta.errors import ConfigError
from fedmeta.federation.aggregator import Aggregator, build_aggregator
from fedmeta.federation.client import TASKS, request_content
from fedmeta.federation.codec import Codec
from fedmeta.federation.evaluation import quantities, with_evaluation
from fedmeta.federation.evaluation_gate import EvaluationGate
from fedmeta.federation.flower_strategy import StrategyAggregator, UserStrategy
from fedmeta.federation.flower_strategy_state import why_not_resumable
from fedmeta.federation.gate import AdmissionGate, Update
from fedmeta.federation.learner import Learner
from fedmeta.federation.optimizer import ServerOptimizer, ServerOptions, learning_rate
from fedmeta.federation.receive import Receiver
from fedmeta.federation.records import RoundRecord, Snapshot
from fedmeta.federation.round import Plan, RoundTally, require_finite
from fedmeta.federation.sampling import Addresses, by_client, sample_cohort, wait_for_nodes
from fedmeta.federation.scoring import Rewards
from fedmeta.learning import Tensors
from fedmeta.tasks import Split

log = logging.getLogger(__name__)

Observer = Callable[[RoundRecord, Snapshot], None]


class MetaStrategy(Strategy):
    """Federated meta-learning with one server optimizer, on any Flower grid.

    Args:
        learner: Says what states and replies look like; its clients' data is not touched.
        plan: What to do each round.
        observer: Called after each round with what happened and where the run stands.
        start: Where an earlier run stood; None: begin from the initial arrays.
        rewards: How clients are known and paid; None: they are neither.

    Raises:
        ConfigError: If the cohort is larger than the population.
    """

    def __init__(
        self,
        learner: Learner,
        plan: Plan,
        observer: Observer,
        start: Snapshot | None = None,
        rewards: Rewards | None = None,
    ) -> None:
        rewards = rewards or Rewards()
        workload = learner.workload
        self.population = workload.population
        if plan.asked > self.population.train:
            more = f" + oversample = {plan.oversample}" if plan.oversample else ""
            raise ConfigError(
                f"cohort = {plan.cohort}{more} is larger than the population of "
                f"{self.population.train} training clients"
            )
        self.plan = plan
        self.observer = observer
        self.seed = workload.seed
        self.steps = workload.evaluation_steps
        self.codec = Codec(learner.template)
        self.scorer = rewards.scorer
        self.gate = AdmissionGate(
            plan.gate,
            self.codec,
            learner.metric_names,
            workload.tasks_per_round,
            rewards.signatures,
        )
        self.evaluation_gate = EvaluationGate(
            quantities(learner.algorithm), len(self.steps), learner.evaluation_count
        )
        self.first_round = start.round + 1 if start else 1
        self._optimizer = ServerOptimizer(
            plan.server, start.state if start else learner.template, plan.rounds
        )
        self._lr = workload.local_lr
        self._user = UserStrategy(plan.aggregation, plan.asked) if plan.aggregation.is_strategy else None
        if start:
            self._memory.restore(start.optimizer)
        self._warned = False
        self._cohort: list[int] = []
        self._addresses: Addresses | None = None
        self._receiver: Receiver | None = None
        self._record: RoundRecord | None = None

    @property
    def arrays(self) -> ArrayRecord:
        """The current state, serialized."""
        return self.codec.encode(self._optimizer.state)

    @property
    def _memory(self) -> UserStrategy | ServerOptimizer:
        """What makes the steps, and remembers something between them."""
        return self._user or self._optimizer

    def snapshot(self, round_: int) -> Snapshot:
        """Return where the run stands after `round_`."""
        return Snapshot(round_, self._optimizer.state, self._memory.export())

    @override
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Draw the clients of the round and address the same request to each."""
        self._cohort = sample_cohort(self.seed, server_round, self.population.train, self.plan.asked)
        more = self._user.configure(server_round, arrays) if self._user else None
        return self._requests(MessageType.TRAIN, server_round, arrays, self._cohort, more)

    @override
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Admit what is sound, average it, and take the server's step; or let a user's strategy do both.

        Returns:
            The new state and the means of the clients' metrics; None for both if the quorum was missed.

        Raises:
            DivergedError: If the state, or every update to it, turned non-finite.
            RunError: If a user's strategy failed.
        """
        aggregator = self._aggregator(server_round)
        tally = RoundTally(server_round, self._cohort, self.gate, aggregator, self.scorer)
        for client, sent in by_client(replies, self._book()):
            tally.take(client, sent)
        tally.close(self.plan, self._receiver)
        skipped = self._why_skipped(tally)
        if not skipped:
            tally.award(lambda vector: self._preview(server_round, vector))
            self._step(server_round, tally)
            require_finite(self._optimizer.state, server_round, self.plan)
        rate = learning_rate(self.plan.server, server_round, self.plan.rounds)
        self._record = tally.record(
            bool(skipped), math.nan if self._user else rate, self.codec.total_bytes
        )
        if skipped:
            log.warning("round %d skipped: %s", server_round, skipped)
            return None, None
        return self.arrays, MetricRecord({TASKS: self._record.tasks, "loss": self._record.loss})

    def _aggregator(self, round_: int) -> Aggregator:
        if self._user:
            return StrategyAggregator(self._user, round_, self._optimizer.state, self.codec, self._lr)
        return build_aggregator(self.plan.aggregation, round_, self.codec.size, self._warn_once)

    def _warn_once(self, line: str) -> None:
        if not self._warned:
            log.warning(line)
        self._warned = True

    def _why_skipped(self, tally: RoundTally) -> str | None:
        """Return why a round changes nothing; None if it does."""
        if tally.admitted < max(1, self.plan.quorum):
            return f"{tally.admitted} admitted, quorum {self.plan.quorum}"
        if isinstance(tally.aggregator, StrategyAggregator):
            _ = tally.pseudo_gradient
            if tally.aggregator.state is None:
                return f"{self.plan.aggregation.rule} aggregated nothing of {tally.admitted} admitted"
        return None

    def _step(self, round_: int, tally: RoundTally) -> None:
        if isinstance(tally.aggregator, StrategyAggregator) and tally.aggregator.state:
            self._optimizer.put(tally.aggregator.state)
        else:
            self._optimizer.step(round_, self.codec.split(tally.pseudo_gradient))

    @override
    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the validation and the test clients, each in the rounds where that is due."""
        asked = (self.ask_split(s, server_round, arrays) for s in self.plan.evaluated(server_round))
        return chain.from_iterable(asked)

    @override
    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Merge the sums of each split of held-out clients into the round's record."""
        sums = dict(self.evaluation_gate.admitted(server_round, by_client(replies, self._book())))
        if not sums or self._record is None:
            return None
        self._record = with_evaluation(self._record, self.population, self.steps, sums)
        results = self._record.evaluation or self._record.test or ()
        return MetricRecord({"loss": [result.loss for result in results]})

    @override
    def summary(self) -> None:
        """Log what this strategy does."""
        plan = self.plan
        if self._user:
            log.info("%s aggregates and steps", plan.aggregation.rule)
            if plan.server != ServerOptions():
                log.warning("server.* is not used: %s makes the step", plan.aggregation.rule)
            if reason := why_not_resumable(self._user.strategy):
                log.warning("this run cannot be resumed: %s", reason)
        log.info(
            "%d of %d clients a round, quorum %d, %s at %g (%s)",
            plan.cohort,
            self.population.train,
            plan.quorum,
            plan.server.optimizer,
            plan.server.lr,
            plan.server.schedule,
        )

    def connect(self, grid: Grid) -> Addresses:
        """Wait for the nodes, for no longer than the plan's timeout, and learn where each client is."""
        self._addresses = wait_for_nodes(grid, len(self.population), self.plan.timeout)
        return self._addresses

    def ask_split(self, split: Split, round_: int, arrays: ArrayRecord) -> Iterable[Message]:
        """Address an evaluation request to every client of `split`."""
        return self._requests(MessageType.EVALUATE, round_, arrays, self.population.clients(split))

    @override
    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the rounds from where the snapshot stood up to `num_rounds`.

        Unlike Flower's, it begins after the last finished round, waits for nothing without a deadline,
        and keeps no history: the observer is told each round.

        Args:
            grid: Where the clients are.
            initial_arrays: The state to start from; ignored where there is a snapshot.
            num_rounds: The last round.
            timeout: Seconds to wait for the replies of a round.
            train_config: Not used; the plan says everything.
            evaluate_config: Not used.
            evaluate_fn: Called after each round with the round and the state.

        Returns:
            The final arrays.
        """
        self.summary()
        self.connect(grid)
        config = ConfigRecord()
        arrays = self.arrays if self.first_round > 1 else initial_arrays
        for round_ in range(self.first_round, num_rounds + 1):
            asked = self.configure_train(round_, arrays, train_config or config, grid)
            changed, _ = self.aggregate_train(round_, self._receive(round_, asked, grid, timeout))
            arrays = changed or arrays
            asked = list(self.configure_evaluate(round_, arrays, evaluate_config or config, grid))
            if asked:
                self.aggregate_evaluate(round_, grid.send_and_receive(asked, timeout=timeout))
            if evaluate_fn:
                evaluate_fn(round_, arrays)
            if self._record is not None:
                self.observer(self._record, self.snapshot(round_))
        return Result(arrays=arrays)

    def _receive(
        self, round_: int, asked: Iterable[Message], grid: Grid, timeout: float
    ) -> Iterable[Message]:
        """Send the requests of a round and return the replies that the round takes."""
        self._receiver = receiver = Receiver(grid, self._book(), round_, timeout, self.seed)
        if not self.plan.oversample:
            return receiver.all(asked)

        def sound(client: int, sent: Sequence[Message]) -> bool:
            return isinstance(self.gate.check(client, round_, sent), Update)

        return receiver.first_valid(asked, self.plan.cohort, sound)

    def _preview(self, round_: int, vector: NDArray[np.float64]) -> Tensors:
        return self._optimizer.preview(round_, self.codec.split(vector))

    def _requests(
        self,
        kind: str,
        round_: int,
        arrays: ArrayRecord,
        clients: Iterable[int],
        more: Mapping[str, ConfigRecordValues] | None = None,
    ) -> Iterator[Message]:
        content, book = request_content(arrays, round_, more), self._book()
        for client in clients:
            if (node := book.node_of(client)) is not None:
                yield Message(content, node, kind, group_id=str(round_))

    def _book(self) -> Addresses:
        if self._addresses is None:
            raise RuntimeError("connect the strategy to a grid first")
        return self._addresses
