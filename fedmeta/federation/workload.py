"""`Workload`: a picklable description of the clients' work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fedmeta.learning import AlgorithmSetup
from fedmeta.tasks import Population


@dataclass(frozen=True)
class Workload:
    """The clients' work as plain values: a `Learner` built from it computes the same in any process.

    Attributes:
        task: Task family, by name or dotted path.
        data: The family's options.
        population: Clients by split.
        setup: Algorithm and model.
        seed: Random seed.
        tasks_per_client: Tasks of a client in each local step.
        local_steps: Meta-steps that a client takes before it replies.
        local_lr: Step size of the local steps.
        proximal_mu: Weight of FedProx's term ``mu / 2 |theta - theta_0|^2`` in each local step;
            None: the algorithm's own.
        dtype: Data type of state, tasks and updates.
        evaluation_tasks: Tasks on which each held-out client is evaluated.
        evaluation_steps: Adaptation steps after which it is evaluated, increasing.
        track_tasks: Tasks on which each test client is evaluated during a run.
        postprocessors: Postprocessors of updates, in order: tables of kind, stage and options.
        device: Device to compute on: ``cpu`` or ``cuda``.
    """

    task: str
    data: Mapping[str, Any]
    population: Population
    setup: AlgorithmSetup
    seed: int
    tasks_per_client: int = 1
    local_steps: int = 1
    local_lr: float = 0.01
    dtype: Literal["float32", "float64"] = "float32"
    evaluation_tasks: int = 100
    evaluation_steps: tuple[int, ...] = (0, 1, 3, 5, 10)
    track_tasks: int = 20
    proximal_mu: float | None = None
    postprocessors: Sequence[Mapping[str, Any]] = ()
    device: str = "cpu"

    @property
    def tasks_per_round(self) -> int:
        """Tasks of one client in one round."""
        return self.tasks_per_client * self.local_steps
