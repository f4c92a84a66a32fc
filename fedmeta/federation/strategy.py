"""fedmeta's Flower strategy: sample, request, admit, aggregate, step."""

import logging
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray
from typing_extensions import override

from fedmeta.errors import ConfigError
from fedmeta.federation.accounts import Rewards
from fedmeta.federation.aggregation import Aggregator
from fedmeta.federation.client import TASKS
from fedmeta.federation.client_memory import COUNTED, MEMORY, OLDEST
from fedmeta.federation.client_states import ClientStates
from fedmeta.federation.codec import Codec
from fedmeta.federation.cohort import (
    Addresses,
    Receiver,
    Settings,
    by_client,
    requests,
    sample_cohort,
    wait_for_nodes,
)
from fedmeta.federation.flower_strategy import StrategyAggregator, UserStrategy, why_not_resumable
from fedmeta.federation.gate import AdmissionGate, Update
from fedmeta.federation.learner import Learner
from fedmeta.federation.optimizer import ServerOptimizer, learning_rate
from fedmeta.federation.records import RoundRecord, Snapshot
from fedmeta.federation.round_plan import Plan, ServerOptions
from fedmeta.federation.tally import RoundTally
from fedmeta.federation.update_keys import UpdateKeys
from fedmeta.learning import KeyRule, Tensors

log = logging.getLogger(__name__)


class MetaStrategy(Strategy):
    """Federated meta-learning with one server optimizer, on any Flower grid.

    `fedmeta.training.run_rounds` runs the rounds and calls `train`. Flower's own loop, `start`, trains
    to the same bits, but evaluates no client, does not check that the state is finite, and with
    `oversample` admits all clients that were asked, not the first to answer.

    Args:
        learner: Gives the format of states and replies; its clients' data are not used.
        plan: The settings of each round.
        start: Snapshot to continue from; None: the initial state.
        rewards: How clients are identified and paid; None: neither.
        states: Records which updates counted, for clients with memory; None: in RAM.

    Raises:
        ConfigError: If the cohort is larger than the population, or clients have memory while one of
            Flower's strategies aggregates.
    """

    def __init__(
        self,
        learner: Learner,
        plan: Plan,
        start: Snapshot | None = None,
        rewards: Rewards | None = None,
        states: ClientStates | None = None,
    ) -> None:
        rewards = rewards or Rewards()
        workload = learner.workload
        self.population = workload.population
        require_fitting(learner, plan)
        self.plan = plan
        self.seed = workload.seed
        self.codec = Codec(learner.template)
        self.scorer = rewards.scorer
        self.keys = UpdateKeys(learner.algorithm, self.codec, self.population.train)
        remembering = bool(learner.memory_template)
        self._states = (states or ClientStates()) if remembering else None
        self.gate = AdmissionGate(
            plan.gate,
            self.codec,
            learner.training_measures,
            workload.tasks_per_round,
            rewards.signatures,
            self.keys.checked,
            remembering,
        )
        initial = start.state if start else learner.template
        self._optimizer = ServerOptimizer(
            plan.server, initial, plan.rounds, learner.added_keys, learner.postprocessing("server")
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
        self._arrays: ArrayRecord | None = None

    @property
    def arrays(self) -> ArrayRecord:
        """The current state, serialized."""
        if self._arrays is None:
            self._arrays = self.codec.encode(self._optimizer.state)
        return self._arrays

    @property
    def _memory(self) -> UserStrategy | ServerOptimizer:
        """What takes the steps and keeps state between them."""
        return self._user or self._optimizer

    @property
    def state(self) -> Tensors:
        """A copy of the current state."""
        return self._optimizer.state

    def export(self) -> Tensors:
        """Return the state of the optimizer or the user's strategy, as flat tensors."""
        return self._memory.export()

    def connect(self, grid: Grid) -> Addresses:
        """Wait for the nodes, up to the plan's timeout, and return the clients' addresses."""
        self._addresses = wait_for_nodes(grid, len(self.population), self.plan.timeout)
        return self._addresses

    def train(self, round_: int, grid: Grid) -> RoundRecord:
        """Run one round; before the first, wait for the nodes.

        Raises:
            DivergedError: If every update was non-finite.
            RunError: If a user's strategy failed.
        """
        if self._addresses is None:
            self.summary()
        asked = self.configure_train(round_, self.arrays, ConfigRecord(), grid)
        self.aggregate_train(round_, self._receive(round_, asked, grid))
        assert self._record is not None
        return self._record

    @override
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Draw the clients of the round and yield a request to each."""
        addresses = self._addresses or self.connect(grid)
        self._cohort = sample_cohort(self.seed, server_round, self.population.train, self.plan.asked)
        more: Settings | Callable[[int], Settings] | None = None
        if self._user:
            more = self._user.configure(server_round, arrays)
        elif self._states:
            more = self._counted_before(self._states, server_round)
        return requests(MessageType.TRAIN, server_round, arrays, self._cohort, addresses, more)

    def _counted_before(self, states: ClientStates, round_: int) -> Callable[[int], Settings]:
        """Return a function from client to its last counted round and related settings."""
        last = dict(zip(self._cohort, states.counted(self._cohort, round_), strict=True))
        oldest = self.plan.oldest(round_)
        return lambda client: {COUNTED: last[client], OLDEST: oldest, MEMORY: states.run}

    @override
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Admit valid replies, aggregate them and step; a user's strategy may do the latter two.

        Returns:
            The new state and the means of the clients' metrics; None for both if the round was skipped.

        Raises:
            DivergedError: If every update was non-finite.
            RunError: If a user's strategy failed.
        """
        aggregator = self._aggregator(server_round)
        scored = self.keys.scored
        tally = RoundTally(server_round, self._cohort, self.gate, aggregator, self.scorer, scored)
        for client, sent in by_client(replies, self._connected()):
            tally.take(client, sent)
        tally.close(self.plan, self._receiver)
        skipped = self._why_skipped(tally)
        if not skipped:
            tally.award(lambda vector: self._preview(server_round, tally, vector))
            self._step(server_round, tally)
            if self._states:
                self._states.count(server_round, tally.admitted_clients, self.plan.oldest(server_round))
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
        return self.keys.aggregator(self.plan.aggregation, round_, self._warn_once)

    def _warn_once(self, line: str) -> None:
        if not self._warned:
            log.warning(line)
        self._warned = True

    def _why_skipped(self, tally: RoundTally) -> str | None:
        """Return why a round is skipped; None if it is not."""
        if tally.admitted < max(1, self.plan.quorum):
            return f"{tally.admitted} admitted, quorum {self.plan.quorum}"
        if isinstance(tally.aggregator, StrategyAggregator):
            _ = tally.pseudo_gradient
            if tally.aggregator.state is None:
                return f"{self.plan.aggregation.rule} aggregated nothing of {tally.admitted} admitted"
        return None

    def _step(self, round_: int, tally: RoundTally) -> None:
        self._arrays = None
        if isinstance(tally.aggregator, StrategyAggregator) and tally.aggregator.state:
            self._optimizer.put(tally.aggregator.state)
        else:
            self._optimizer.step(round_, self.codec.split(tally.pseudo_gradient))

    @override
    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send no requests: `Federation.evaluate` evaluates held-out clients."""
        return []

    @override
    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return None: see `configure_evaluate`."""
        return None

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

    def _receive(self, round_: int, asked: Iterable[Message], grid: Grid) -> Iterable[Message]:
        """Send the requests of a round and return the replies to use."""
        plan = self.plan
        self._receiver = receiver = Receiver(grid, self._connected(), round_, plan.timeout, self.seed)
        if not plan.oversample:
            return receiver.all(asked)

        def sound(client: int, sent: Sequence[Message]) -> bool:
            return isinstance(self.gate.check(client, round_, sent), Update)

        return receiver.first_valid(asked, plan.cohort, sound)

    def _preview(self, round_: int, tally: RoundTally, vector: NDArray[np.float64]) -> Tensors:
        if self.keys.scored is not None:
            # Values that contributions are not scored by come from the whole round.
            scored, vector = vector, tally.pseudo_gradient.copy()
            vector[self.keys.scored] = scored
        return self._optimizer.preview(round_, self.codec.split(vector))

    def _connected(self) -> Addresses:
        if self._addresses is None:
            raise RuntimeError("connect the strategy to a grid first")
        return self._addresses


def require_fitting(learner: Learner, plan: Plan) -> None:
    """Check that a plan fits the population and the algorithm.

    Raises:
        ConfigError: If the cohort is larger than the population; or a Flower strategy is to aggregate
            while clients have memory, or parts of the state are not averaged over tasks.
    """
    train = learner.workload.population.train
    if plan.asked > train:
        more = f" + oversample = {plan.oversample}" if plan.oversample else ""
        raise ConfigError(
            f"cohort = {plan.cohort}{more} is larger than the population of {train} training clients"
        )
    if not plan.aggregation.is_strategy:
        return
    name = learner.workload.setup.algorithm
    rules = [learner.algorithm.key_rule(key) for key in learner.template]
    if learner.memory_template or any(rule != KeyRule() for rule in rules):
        raise ConfigError(
            f"aggregation.rule = '{plan.aggregation.rule}': a Flower strategy cannot aggregate for "
            f"algorithm '{name}', whose clients have memory or whose state is not averaged over tasks; "
            "use one of fedmeta's rules, such as 'mean'"
        )
