"""`Workload`: a picklable description of the clients' work."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedmeta.errors import MissingDataError
from fedmeta.federation.learner import Learner
from fedmeta.learning import LearnerSetup, build_algorithm
from fedmeta.tasks import Population, RemoteFamily, TaskFamily, build_family, shape_of_tasks
from fedmeta.tasks.family_check import CheckedFamily


@dataclass(frozen=True)
class Workload:
    """What clients work on, as plain values: any process that builds it computes the same.

    Attributes:
        task: Task family, by name or dotted path.
        data: The family's options.
        population: Clients by split.
        learner: Algorithm and model.
        seed: Of all that is random.
        tasks_per_client: Tasks of a client in each of its local steps.
        local_steps: Meta-steps that a client takes before it replies.
        local_lr: Step size of those.
        proximal_mu: Weight of FedProx's term ``mu / 2 |theta - theta_0|^2`` in each of them.
        dtype: Of the state, the tasks and the updates.
        evaluation_tasks: Tasks that each held-out client is evaluated on.
        evaluation_steps: Adaptation steps after which it is, increasing.
        track_tasks: Tasks that each test client is looked at on within a run.
    """

    task: str
    data: Mapping[str, Any]
    population: Population
    learner: LearnerSetup
    seed: int
    tasks_per_client: int = 1
    local_steps: int = 1
    local_lr: float = 0.01
    dtype: Literal["float32", "float64"] = "float32"
    evaluation_tasks: int = 100
    evaluation_steps: tuple[int, ...] = (0, 1, 3, 5, 10)
    track_tasks: int = 20
    proximal_mu: float = 0.0

    def build(self) -> Learner:
        """Load the data and build the algorithm.

        Raises:
            ConfigError: For an unknown name or option, or parts that do not fit each other.
            DataError: If a data file is missing or corrupt.
        """
        family: TaskFamily = build_family(self.task, self.data, self.population, self.seed)
        if not type(family).__module__.startswith("fedmeta."):
            family = CheckedFamily(family, self.population)
        return Learner(self, family, build_algorithm(self.learner, family.spec, self.seed))

    def build_for_server(self) -> Learner:
        """Build what a server needs whose clients are elsewhere, and their data too if need be.

        Raises:
            ConfigError: As `build` does.
            DataError: If a data file is corrupt, or not here and the family cannot tell its shapes
                without.
        """
        try:
            return self.build()
        except MissingDataError:
            spec = shape_of_tasks(self.task, self.data)
            if spec is None:
                raise
            family = RemoteFamily(spec, self.population)
            return Learner(self, family, build_algorithm(self.learner, spec, self.seed))

    @property
    def tasks_per_round(self) -> int:
        """Tasks of one client in one round."""
        return self.tasks_per_client * self.local_steps
