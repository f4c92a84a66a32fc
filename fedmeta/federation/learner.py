"""Client-side computation, batched over a cohort."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

import torch

from fedmeta.errors import MissingDataError
from fedmeta.federation.evaluation import EvaluationSums, evaluate_each, evaluate_tasks, quantities
from fedmeta.federation.failures import Failure, failure_of
from fedmeta.federation.part_tables import Stage
from fedmeta.federation.postprocessors import Postprocessing
from fedmeta.federation.workload import Workload
from fedmeta.learning import (
    CPU,
    Algorithm,
    LocalWork,
    Tensors,
    build_algorithm,
    chunk_tasks,
    expand_state,
    place,
    use_device,
)
from fedmeta.tasks import (
    Measure,
    RemoteFamily,
    TaskBatch,
    TaskFamily,
    build_family,
    drawing_together,
    many_streams,
    shape_of_tasks,
    stream,
    torch_generator,
)
from fedmeta.tasks.family_check import CheckedFamily

Starts = Callable[[Sequence[int]], tuple[Tensors, Tensors]]
"""Returns what some clients start from, ``[C, ...]``: the server's state, and each one's memory."""


@dataclass(frozen=True)
class CohortUpdate:
    """Results of a stack of clients.

    Attributes:
        clients: Partition ids of the C clients that succeeded.
        updates: Pseudo-gradients, ``[C, ...]`` by key of the state.
        metrics: Means over a client's tasks, ``[C]`` each.
        tasks: Tasks of each client.
        failures: Why the others failed, by partition id.
        memory: Each one's memory if its update counts, ``[C, ...]``; it does not leave the client.
    """

    clients: list[int]
    updates: Tensors
    metrics: Tensors
    tasks: int
    failures: dict[int, Failure] = field(default_factory=dict)
    memory: Tensors = field(default_factory=dict)


class Learner:
    """The clients' side of a workload: private data and local work. It has no state.

    Arguments and results are on the CPU; it moves a chunk's state and tasks to the workload's device and
    the results back.

    Args:
        workload: The workload.
        family: The clients' data.
        algorithm: How they learn.

    Raises:
        ConfigError: If the workload's device is not available.
    """

    def __init__(self, workload: Workload, family: TaskFamily, algorithm: Algorithm) -> None:
        self.workload = workload
        self.family = family
        self.algorithm = algorithm
        self.dtype: torch.dtype = getattr(torch, workload.dtype)
        self.device = use_device(workload.device)

    @staticmethod
    def build(workload: Workload) -> "Learner":
        """Load the data of a workload and build its algorithm.

        Raises:
            ConfigError: For an unknown name or option, or parts that do not fit each other.
            DataError: If a data file is missing or corrupt.
        """
        family = build_family(workload.task, workload.data, workload.population, workload.seed)
        if not type(family).__module__.startswith("fedmeta."):
            family = CheckedFamily(family, workload.population)
        return Learner(workload, family, build_algorithm(workload.setup, family.spec, workload.seed))

    @staticmethod
    def build_for_server(workload: Workload) -> "Learner":
        """Build the learner of a server with remote clients, without their data if it is not available.

        Raises:
            ConfigError: As `build` does.
            DataError: If a data file is corrupt, or missing and the family cannot tell its shapes
                without it.
        """
        try:
            return Learner.build(workload)
        except MissingDataError:
            spec = shape_of_tasks(workload.task, workload.data)
            if spec is None:
                raise
            family = RemoteFamily(spec, workload.population)
            return Learner(workload, family, build_algorithm(workload.setup, spec, workload.seed))

    @property
    def has_data(self) -> bool:
        """Whether tasks can be drawn in this process."""
        return not isinstance(self.family, RemoteFamily)

    @cached_property
    def template(self) -> Tensors:
        """The initial state, which is the format of states and updates.

        Sorted by name as in a `ServerOptimizer`, so sums over tensors have the same order everywhere.
        """
        drawn = self.algorithm.init(torch_generator(self.workload.seed, "init"))
        return self._typed(dict(sorted(drawn.items())))

    @cached_property
    def memory_template(self) -> Tensors:
        """Client 0's memory before its first round; empty if clients have none.

        Names, shapes and dtypes are the same for all clients.
        """
        own = dict(sorted(self.algorithm.init_client(0).items()))
        return self._typed(own | self._at_client.init)

    @cached_property
    def added_keys(self) -> frozenset[str]:
        """Tensors of the state to which the server adds updates unchanged (see `KeyRule`)."""
        rules = {key: self.algorithm.key_rule(key) for key in self.template}
        return frozenset(key for key, rule in rules.items() if rule.step == "add")

    @cached_property
    def _at_task(self) -> Postprocessing:
        return self.postprocessing("task")

    @cached_property
    def _at_client(self) -> Postprocessing:
        return self.postprocessing("client")

    def postprocessing(self, stage: Stage) -> Postprocessing:
        """Return the postprocessing of the updates of a stage."""
        return Postprocessing(self.workload.postprocessors, stage, self.template, self.added_keys)

    def init_clients(self, clients: Sequence[int]) -> Tensors:
        """Return the memory of clients before their first round, ``[C, ...]``."""
        if not self.memory_template:
            return {}
        begun = (self.algorithm.init_client(client) | self._at_client.init for client in clients)
        own = [self._typed(one) for one in begun]
        return {key: torch.stack([one[key] for one in own]) for key in self.memory_template}

    def _typed(self, tensors: Tensors) -> Tensors:
        return {k: v.to(self.dtype) if v.is_floating_point() else v for k, v in tensors.items()}

    @property
    def constants(self) -> Tensors:
        """The model's tensors that are not learned; a user's own model need not declare any."""
        return getattr(self.algorithm.model, "constants", {})

    def init_state(self) -> Tensors:
        """Draw the initial state, which depends only on the seed."""
        return {key: value.clone() for key, value in self.template.items()}

    @property
    def training_measures(self) -> dict[str, Measure]:
        """The metrics in a training reply, by name."""
        return self.algorithm.objective.training_measures

    @property
    def evaluation_measures(self) -> dict[str, Measure]:
        """The measures in an evaluation reply, by name."""
        return quantities(self.algorithm)

    @property
    def chunk_clients(self) -> int:
        """Number of clients stacked at once; it depends on model and device, not on cores or memory."""
        tasks = chunk_tasks(self.algorithm.model, self.device)
        return max(1, tasks // self.workload.tasks_per_client)

    def sample(self, round_: int, client: int) -> TaskBatch:
        """Draw a client's tasks of one round, in order of its local steps."""
        rng = stream(self.workload.seed, "train", round_, client)
        return self.family.sample(client, self.workload.tasks_per_round, rng).to(self.dtype)

    def sample_many(self, round_: int, clients: Sequence[int]) -> TaskBatch | None:
        """Draw what `sample` does for each client, at once; None if that is not possible."""
        if type(self).sample is not Learner.sample:
            return None  # a subclass draws other tasks
        population = self.workload.population
        if len({population.split_of(client) for client in clients}) != 1:
            return None
        if (family := drawing_together(self.family)) is None:
            return None
        rngs = many_streams(self.workload.seed, "train", round_, last=clients)
        count = self.workload.tasks_per_round
        return family.sample_many(clients, count, rngs).to(self.dtype)

    def train(
        self, state: Tensors, round_: int, clients: Sequence[int], memory: Tensors | None = None
    ) -> CohortUpdate:
        """Compute the updates of clients that start from one state, in one stack.

        A client that fails is left out, with its reason. Its row in the stack gets another client's
        tasks, so that it does not change a bit of the others' results.

        Args:
            state: The server's state.
            round_: The round.
            clients: Partition ids of C clients.
            memory: Each one's memory, ``[C, ...]``; None: the initial memory.
        """
        state = place(state, self.device)
        own = self.init_clients(clients) if memory is None else memory
        row_of = {client: row for row, client in enumerate(clients)}

        def starts(group: Sequence[int]) -> tuple[Tensors, Tensors]:
            rows = [row_of[client] for client in group]
            mine = own if len(rows) == len(row_of) else {key: value[rows] for key, value in own.items()}
            return expand_state(state, len(group)), mine

        return self.train_from(starts, round_, clients)

    def train_from(self, starts: Starts, round_: int, clients: Sequence[int]) -> CohortUpdate:
        """Like `train`, with each client starting from its own state."""
        with suppress(Exception):
            if (tasks := self.sample_many(round_, clients)) is not None:
                found = self.local_update(starts(clients), round_, clients, tasks)
                return self._cohort(list(clients), found, {})
        drawn, failures = self._draw(round_, clients)
        with suppress(Exception):
            return self._stacked(starts, round_, clients, drawn, failures)
        # Some client's tasks break the stack: find out whose by computing each alone.
        failures |= self._failing_alone(starts, round_, drawn)
        with suppress(Exception):
            return self._stacked(starts, round_, clients, drawn, failures)
        return self._one_by_one(starts, round_, clients, drawn, failures)

    def evaluate(self, state: Tensors, client: int, round_: int = 0) -> EvaluationSums:
        """Adapt to a held-out client's tasks, the same ones each time, and return sums of its measures.

        Args:
            state: The meta-learned state.
            client: A held-out client.
            round_: The round; 0: after the last.
        """
        tasks, steps = self.evaluation_tasks(client, round_), self.workload.evaluation_steps
        return evaluate_tasks(self.algorithm, state, tasks, steps, self.device)

    def evaluate_each(self, states: Tensors, client: int, round_: int = 0) -> EvaluationSums:
        """Like `evaluate`, with each task starting from its own row of `states`, ``[T, ...]``."""
        tasks, steps = self.evaluation_tasks(client, round_), self.workload.evaluation_steps
        return evaluate_each(self.algorithm, states, tasks, steps, self.device)

    def evaluation_tasks(self, client: int, round_: int = 0) -> TaskBatch:
        """Draw the tasks that a held-out client is evaluated on, the same ones each time.

        A test client evaluated during the run draws other tasks than for the final test, so the curve
        and the final result are independent.
        """
        # The stream of a tracked evaluation has an old name: another would draw other tasks.
        path = "look" if self._is_tracking(client, round_) else "evaluate"
        count = self.evaluation_count(client, round_)
        drawn = self.family.sample(client, count, stream(self.workload.seed, path, client))
        return drawn.to(self.dtype)

    def evaluation_count(self, client: int, round_: int) -> int:
        """Return how many tasks a held-out client is evaluated on in a round."""
        workload = self.workload
        return workload.track_tasks if self._is_tracking(client, round_) else workload.evaluation_tasks

    def _is_tracking(self, client: int, round_: int) -> bool:
        return round_ > 0 and self.workload.population.split_of(client) == "test"

    def _draw(
        self, round_: int, clients: Sequence[int]
    ) -> tuple[dict[int, TaskBatch], dict[int, Failure]]:
        drawn, failures = {}, {}
        for client in clients:
            try:
                drawn[client] = self.sample(round_, client)
            except Exception as error:
                # A client's own code and data: whatever they raise fails that client only.
                failures[client] = failure_of(error)
        return drawn, failures

    def _stacked(
        self,
        starts: Starts,
        round_: int,
        clients: Sequence[int],
        drawn: dict[int, TaskBatch],
        failures: dict[int, Failure],
    ) -> CohortUpdate:
        good = [client for client in clients if client not in failures]
        if not good:
            return CohortUpdate([], {}, {}, self.workload.tasks_per_round, dict(failures))
        batches = [drawn[good[0] if client in failures else client] for client in clients]
        found = self.local_update(starts(clients), round_, clients, TaskBatch.concat(batches))
        if failures:
            rows = [row for row, client in enumerate(clients) if client not in failures]
            found = tuple({key: value[rows] for key, value in part.items()} for part in found)
        return self._cohort(good, found, failures)

    def _failing_alone(
        self, starts: Starts, round_: int, drawn: dict[int, TaskBatch]
    ) -> dict[int, Failure]:
        failures = {}
        for client, tasks in drawn.items():
            try:
                self.local_update(starts([client]), round_, [client], tasks)
            except Exception as error:
                failures[client] = failure_of(error)
        return failures

    def _one_by_one(
        self,
        starts: Starts,
        round_: int,
        clients: Sequence[int],
        drawn: dict[int, TaskBatch],
        failures: dict[int, Failure],
    ) -> CohortUpdate:
        """Compute clients whose tasks cannot be stacked, because their shapes differ."""
        good = [client for client in clients if client not in failures]
        parts = [self.local_update(starts([c]), round_, [c], drawn[c]) for c in good]
        found = tuple(
            {key: torch.cat([part[i][key] for part in parts]) for key in parts[0][i]} for i in range(3)
        )
        return self._cohort(good, found, failures)

    def _cohort(
        self, clients: list[int], found: tuple[Tensors, ...], failures: dict[int, Failure]
    ) -> CohortUpdate:
        updates, memory, metrics = found
        tasks = self.workload.tasks_per_round
        return CohortUpdate(clients, updates, metrics, tasks, dict(failures), memory)

    def local_update(
        self, start: tuple[Tensors, Tensors], round_: int, clients: Sequence[int], tasks: TaskBatch
    ) -> tuple[Tensors, ...]:
        """Do the local work of C clients on the device; see `Algorithm.local_update`.

        Args:
            start: The server's state and each client's memory, ``[C, ...]``.
            round_: The round.
            clients: Partition ids.
            tasks: The tasks of a round, client by client.

        Returns:
            Updates, memory and metrics, ``[C, ...]`` by name, on the CPU.
        """
        workload = self.workload
        state, memory = (place(part, self.device) for part in start)
        work = LocalWork(
            clients,
            tasks.to(device=self.device),
            workload.local_steps,
            workload.local_lr,
            self._task_updates if self._at_task else self.algorithm.task_updates,
            workload.proximal_mu,
            workload.seed,
            round_,
        )
        own = {key: value for key, value in memory.items() if key not in self._at_client.init}
        update, own, metrics = self.algorithm.local_update(state, own, work)
        if self._at_client:
            done = {key: memory[key] for key in self._at_client.init}
            update, done = self._at_client(update, done)
            own = own | done
        measured = {name: metrics[name] for name in self.training_measures}
        return place(update, CPU), place(own, CPU), place(measured, CPU)

    def _task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Compute each task's postprocessed pseudo-gradient."""
        updates, metrics = self.algorithm.task_updates(state, tasks)
        return self._at_task(updates, {})[0], metrics
