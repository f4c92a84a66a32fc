"""Client-side computation, batched over a cohort."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from fedmeta.errors import MissingDataError
from fedmeta.federation.evaluation import EvaluationSums, evaluate_tasks
from fedmeta.federation.failures import Failure, failure_of
from fedmeta.federation.workload import Workload
from fedmeta.learning import Algorithm, Tensors, build_algorithm, expand_state
from fedmeta.tasks import (
    Measure,
    RemoteFamily,
    TaskBatch,
    TaskFamily,
    build_family,
    shape_of_tasks,
    stream,
    torch_generator,
)
from fedmeta.tasks.family_check import CheckedFamily

Starts = Callable[[Sequence[int]], Tensors]
"""Returns the states that some clients start from, ``[C, ...]`` each."""


@dataclass(frozen=True)
class CohortUpdate:
    """What a stack of clients computed.

    Attributes:
        clients: Partition ids of those that succeeded; C in number.
        updates: Pseudo-gradients, ``[C, ...]`` by key of the state.
        metrics: Means over a client's tasks, ``[C]`` each.
        tasks: Tasks of each client.
        failures: Why the others failed, by partition id.
    """

    clients: list[int]
    updates: Tensors
    metrics: Tensors
    tasks: int
    failures: dict[int, Failure] = field(default_factory=dict)


class Learner:
    """The clients' side of a workload: private data and local work, without any state of its own.

    Args:
        workload: The values it was built from.
        family: The clients' data.
        algorithm: How they learn.
    """

    def __init__(self, workload: Workload, family: TaskFamily, algorithm: Algorithm) -> None:
        self.workload = workload
        self.family = family
        self.algorithm = algorithm
        self.dtype: torch.dtype = getattr(torch, workload.dtype)

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
        return Learner(workload, family, build_algorithm(workload.learner, family.spec, workload.seed))

    @staticmethod
    def build_for_server(workload: Workload) -> "Learner":
        """Build what a server needs whose clients are elsewhere, and their data too if they are here.

        Raises:
            ConfigError: As `build` does.
            DataError: If a data file is corrupt, or not here and the family cannot tell its shapes
                without.
        """
        try:
            return Learner.build(workload)
        except MissingDataError:
            spec = shape_of_tasks(workload.task, workload.data)
            if spec is None:
                raise
            family = RemoteFamily(spec, workload.population)
            return Learner(workload, family, build_algorithm(workload.learner, spec, workload.seed))

    @property
    def has_data(self) -> bool:
        """Whether tasks can be drawn in this process."""
        return not isinstance(self.family, RemoteFamily)

    @cached_property
    def template(self) -> Tensors:
        """The initial state; what a state or update must look like.

        By name, as in a `ServerOptimizer`: the order in which tensors are added up is one everywhere.
        """
        drawn = dict(sorted(self.algorithm.init(torch_generator(self.workload.seed, "init")).items()))
        return {k: v.to(self.dtype) if v.is_floating_point() else v for k, v in drawn.items()}

    @property
    def constants(self) -> Tensors:
        """What the model holds and nobody learns; a user's own model may say nothing of it."""
        return getattr(self.algorithm.model, "constants", {})

    def init_state(self) -> Tensors:
        """Draw the initial state, from the seed alone."""
        return {key: value.clone() for key, value in self.template.items()}

    @property
    def training_measures(self) -> dict[str, Measure]:
        """The metrics that a training reply carries, by name."""
        return self.algorithm.objective.training_measures

    @property
    def chunk_clients(self) -> int:
        """How many clients are stacked at once; a matter of the model, never of the machine."""
        return max(1, self.algorithm.model.chunk_tasks // self.workload.tasks_per_client)

    def sample(self, round_: int, client: int) -> TaskBatch:
        """Draw a client's tasks of one round, those of its first local step first."""
        rng = stream(self.workload.seed, "train", round_, client)
        return self.family.sample(client, self.workload.tasks_per_round, rng).to(self.dtype)

    def train(self, state: Tensors, round_: int, clients: Sequence[int]) -> CohortUpdate:
        """Compute the updates of clients that start from one state, in one stack.

        A client that fails is left out with its reason. Its place in the stack is filled with tasks
        of another, so that nobody else's result depends on it, to the last bit.
        """
        return self.train_from(lambda group: expand_state(state, len(group)), round_, clients)

    def train_from(self, starts: Starts, round_: int, clients: Sequence[int]) -> CohortUpdate:
        """As `train`, each client from a state of its own."""
        drawn, failures = self._draw(round_, clients)
        with suppress(Exception):
            return self._stacked(starts, clients, drawn, failures)
        # Somebody's tasks break the stack: find out whose by computing each alone.
        failures |= self._failing_alone(starts, drawn)
        with suppress(Exception):
            return self._stacked(starts, clients, drawn, failures)
        return self._one_by_one(starts, clients, drawn, failures)

    def evaluate(self, state: Tensors, client: int, round_: int = 0) -> EvaluationSums:
        """Adapt to a held-out client's tasks, the same ones each time, and add up how well it does.

        Args:
            state: The meta-learned state.
            client: A held-out client.
            round_: The round that this is asked in; 0: after the last.
        """
        tasks = self.evaluation_tasks(client, round_)
        return evaluate_tasks(self.algorithm, state, tasks, self.workload.evaluation_steps)

    def evaluation_tasks(self, client: int, round_: int = 0) -> TaskBatch:
        """Draw the tasks that a held-out client is evaluated on, the same ones each time.

        A test client that is looked at within the run draws others than for the final test, so that a
        curve and a result are independent of each other.
        """
        path = "look" if self._is_look(client, round_) else "evaluate"
        count = self.evaluation_count(client, round_)
        drawn = self.family.sample(client, count, stream(self.workload.seed, path, client))
        return drawn.to(self.dtype)

    def evaluation_count(self, client: int, round_: int) -> int:
        """Return how many tasks a held-out client is evaluated on in a round."""
        workload = self.workload
        return workload.track_tasks if self._is_look(client, round_) else workload.evaluation_tasks

    def _is_look(self, client: int, round_: int) -> bool:
        return round_ > 0 and self.workload.population.split_of(client) == "test"

    def _draw(
        self, round_: int, clients: Sequence[int]
    ) -> tuple[dict[int, TaskBatch], dict[int, Failure]]:
        drawn, failures = {}, {}
        for client in clients:
            try:
                drawn[client] = self.sample(round_, client)
            except Exception as error:
                # A client's own code and data: whatever it raises is that client's failure alone.
                failures[client] = failure_of(error)
        return drawn, failures

    def _stacked(
        self,
        starts: Starts,
        clients: Sequence[int],
        drawn: dict[int, TaskBatch],
        failures: dict[int, Failure],
    ) -> CohortUpdate:
        good = [client for client in clients if client not in failures]
        if not good:
            return CohortUpdate([], {}, {}, self.workload.tasks_per_round, dict(failures))
        batches = [drawn[good[0] if client in failures else client] for client in clients]
        updates, metrics = self.local_steps(starts(clients), TaskBatch.concat(batches))
        if failures:
            rows = [row for row, client in enumerate(clients) if client not in failures]
            updates = {key: value[rows] for key, value in updates.items()}
            metrics = {key: value[rows] for key, value in metrics.items()}
        return CohortUpdate(good, updates, metrics, self.workload.tasks_per_round, dict(failures))

    def _failing_alone(self, starts: Starts, drawn: dict[int, TaskBatch]) -> dict[int, Failure]:
        failures = {}
        for client, tasks in drawn.items():
            try:
                self.local_steps(starts([client]), tasks)
            except Exception as error:
                failures[client] = failure_of(error)
        return failures

    def _one_by_one(
        self,
        starts: Starts,
        clients: Sequence[int],
        drawn: dict[int, TaskBatch],
        failures: dict[int, Failure],
    ) -> CohortUpdate:
        """Compute clients whose tasks cannot be stacked, because their shapes differ."""
        good = [client for client in clients if client not in failures]
        parts = [self.local_steps(starts([client]), drawn[client]) for client in good]
        updates, metrics = (
            {key: torch.cat([part[i][key] for part in parts]) for key in parts[0][i]} for i in (0, 1)
        )
        return CohortUpdate(good, updates, metrics, self.workload.tasks_per_round, dict(failures))

    def local_steps(self, own: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        """Take local steps ``theta <- theta - local_lr * g``; per client sum g and average the metrics.

        The sum is ``(theta_0 - theta_k) / local_lr``: what FedAvg's server steps along (Reddi et al.
        2021, "Adaptive Federated Optimization", Algorithm 1). With ``proximal_mu`` each g has the
        gradient ``mu (theta - theta_0)`` of FedProx's term too (Li et al. 2020, "Federated Optimization
        in Heterogeneous Networks", equation 2); it is 0 in the first step.

        Args:
            own: The state that each of C clients starts from, ``[C, ...]``.
            tasks: The tasks of a round, client by client.

        Returns:
            The sums, ``[C, ...]`` each, and the clients' metrics, ``[C]`` each.
        """
        workload = self.workload
        clients = len(tasks) // workload.tasks_per_round
        total: Tensors = {}
        seen: list[Tensors] = []
        for step in range(workload.local_steps):
            rows = {key: _for_each_task(value, workload.tasks_per_client) for key, value in own.items()}
            gradients, metrics = self.algorithm.task_updates(
                rows, self._step_tasks(tasks, clients, step)
            )
            mean = {key: _client_mean(value, clients) for key, value in gradients.items()}
            seen.append({key: _client_mean(value, clients) for key, value in metrics.items()})
            if workload.proximal_mu and total:
                pull = workload.proximal_mu * workload.local_lr
                mean = {key: value - pull * total[key] for key, value in mean.items()}
            total = {key: total[key] + mean[key] for key in mean} if total else mean
            if step + 1 < workload.local_steps:
                own = {key: value - workload.local_lr * mean[key] for key, value in own.items()}
        names = self.training_measures
        return total, {n: torch.stack([metrics[n] for metrics in seen]).mean(0) for n in names}

    def _step_tasks(self, tasks: TaskBatch, clients: int, step: int) -> TaskBatch:
        """Pick the tasks of one local step out of those of a round, client by client."""
        workload = self.workload
        if workload.local_steps == 1:
            return tasks

        def pick(values: Tensor) -> Tensor:
            split = values.view(
                clients, workload.local_steps, workload.tasks_per_client, *values.shape[1:]
            )
            return split[:, step].flatten(0, 1)

        return tasks.map(pick)


def _for_each_task(own: Tensor, tasks: int) -> Tensor:
    """Repeat ``[C, ...]`` for each client's tasks, ``[C * tasks, ...]``; no copy where all share."""
    if tasks == 1:
        return own
    if own.stride(0) == 0:
        return own[:1].expand(own.shape[0] * tasks, *own.shape[1:])
    return own.repeat_interleave(tasks, 0)


def _client_mean(values: Tensor, clients: int) -> Tensor:
    """Average ``[C * n, ...]`` over each client's n tasks, ``[C, ...]``."""
    values = values.detach()
    if values.shape[0] == clients:
        return values
    return values.reshape(clients, -1, *values.shape[1:]).mean(1)
