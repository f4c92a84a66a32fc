"""Records of a round: plain values for observers to log."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedmeta.federation.refusal import Outcome, Refusal
from fedmeta.tasks.measure import LOSS, Measure, main_of

if TYPE_CHECKING:
    from fedmeta.learning import Tensors

INDUCTIVE = "inductive_"
"""Prefix of the main measure without transduction."""


@dataclass(frozen=True)
class SignedUpdate:
    """Proof that an account contributed an update.

    Attributes:
        account: Address of the client.
        digest: SHA-256 of the update's values.
        signature: The client's signature of round, task count and digest.
    """

    account: str
    digest: bytes
    signature: bytes


@dataclass(frozen=True)
class Award:
    """Score and pay of an admitted update.

    Attributes:
        score: Score by the run's incentive rule; higher is better.
        reward: Payment in token units.
    """

    score: float
    reward: int


@dataclass(frozen=True)
class ClientRecord:
    """One client's part in one round.

    Attributes:
        round: The round.
        client: Partition id.
        tasks: Training tasks behind the reply; 0 if it was not admitted.
        norm: Euclidean norm of the pseudo-gradient; None if it could not be read.
        admitted: Whether the reply was aggregated.
        refusal: Why it was not; None if it was.
        measures: Loss and measures after adaptation, by name, as the client reports them; empty if not
            admitted.
        signed: Proof of who sent it; None if not admitted, or if replies are not signed.
        award: Its score and pay; None if not admitted, or if the run pays nothing.
    """

    round: int
    client: int
    tasks: int
    norm: float | None
    admitted: bool
    refusal: Refusal | None
    measures: Mapping[str, float] = field(default_factory=dict)
    signed: SignedUpdate | None = None
    award: Award | None = None

    @property
    def loss(self) -> float | None:
        """Query loss after adaptation; None if not admitted."""
        return self.measures.get(LOSS)

    @property
    def accuracy(self) -> float | None:
        """Query accuracy after adaptation; None if not admitted, or if tasks have none."""
        return self.measures.get("accuracy")

    @property
    def reason(self) -> str | None:
        """Why it was not admitted, in one line; None if it was."""
        return self.refusal.reason if self.refusal else None

    @property
    def outcome(self) -> Outcome:
        """The reply's outcome."""
        return self.refusal.code.outcome if self.refusal else "admitted"


@dataclass(frozen=True)
class Estimate:
    """A mean over tasks, with confidence intervals.

    Attributes:
        mean: The mean; infinite if a task diverged and the measure has no worst value.
        ci95: Half the width of the 95% confidence interval over clients, see
            `fedmeta.federation.evaluation.clustered_half_width`; None with one client or an infinite
            mean.
        tasks_ci95: Half the width of the 95% interval over tasks, ``1.96 s / sqrt(n)``; None with one
            task or an infinite mean.
    """

    mean: float
    ci95: float | None = None
    tasks_ci95: float | None = None


@dataclass(frozen=True)
class StepResult:
    """Results of held-out clients after a number of adaptation steps.

    All steps of an evaluation use the same clients and tasks. A task whose loss is not finite has
    diverged and counts as the worst: its accuracy is 0 and its loss infinite.

    The intervals over clients, whose tasks reuse the same few examples, give the uncertainty for new
    clients; those over tasks, for new tasks of the same clients, as if tasks were independent.

    Attributes:
        step: Adaptation steps.
        measures: Loss and measures of the query sets, by name; for models with batch norm also
            ``inductive_NAME``, which uses batch-norm statistics of the support set only.
        scale: The main measure's scale and direction.
        tasks: Number of tasks averaged, including diverged ones.
        diverged: Number of diverged tasks.
        diverged_clients: Number of clients with diverged tasks.
        finite_loss: Mean query loss over the tasks that did not diverge; None if all did.
        clients: Clients that answered.
        clients_asked: Clients that were asked.
    """

    step: int
    measures: Mapping[str, Estimate]
    scale: Measure
    tasks: int
    diverged: int
    diverged_clients: int
    finite_loss: float | None
    clients: int
    clients_asked: int

    @property
    def main(self) -> str:
        """Name of the main measure."""
        return main_of(self.measures)

    @property
    def inductive(self) -> str | None:
        """Name of the main measure without transduction; None without batch norm."""
        name = f"{INDUCTIVE}{self.main}"
        return name if name in self.measures else None

    @property
    def loss(self) -> float:
        """Mean query loss; infinite if a task diverged."""
        return self.measures[LOSS].mean

    @property
    def accuracy(self) -> float | None:
        """Mean of the measure ``accuracy``; None where tasks have none."""
        return self.measures["accuracy"].mean if "accuracy" in self.measures else None

    @property
    def ci95(self) -> float | None:
        """Half the interval over clients of the main measure."""
        return self.measures[self.main].ci95

    @property
    def tasks_ci95(self) -> float | None:
        """Half the interval over tasks of the main measure."""
        return self.measures[self.main].tasks_ci95

    def to_json(self) -> dict[str, Any]:
        """Return the columns of a run's files, which always include ``loss`` and ``accuracy``."""
        columns: dict[str, Any] = {"step": self.step, LOSS: self.loss, "accuracy": self.accuracy}
        columns |= {"ci95": self.ci95, "tasks": self.tasks, "loss_ci95": self.measures[LOSS].ci95}
        inductive = self.measures[self.inductive] if self.inductive else None
        columns |= {
            f"{INDUCTIVE}accuracy": None,
            self.inductive or f"{INDUCTIVE}accuracy": inductive and inductive.mean,
            f"{INDUCTIVE}ci95": inductive and inductive.ci95,
            "tasks_ci95": self.tasks_ci95,
            "loss_tasks_ci95": self.measures[LOSS].tasks_ci95,
            f"{INDUCTIVE}tasks_ci95": inductive and inductive.tasks_ci95,
            "diverged": self.diverged,
            "diverged_clients": self.diverged_clients,
            "finite_loss": self.finite_loss,
            "clients": self.clients,
            "clients_asked": self.clients_asked,
        }
        for name, one in self.measures.items():
            if name not in columns:
                columns[name] = one.mean
                columns |= {f"{name}_ci95": one.ci95, f"{name}_tasks_ci95": one.tasks_ci95}
        return columns


@dataclass(frozen=True)
class RoundRecord:
    """One finished round. Means are over the tasks of admitted clients; NaN if there are none.

    Attributes:
        round: The round, counted from 1.
        skipped: Whether fewer clients than the quorum were admitted, so the state did not change.
        cohort: Clients that were asked.
        admitted: Clients whose reply was aggregated.
        quarantined: Clients whose reply was refused.
        late: Clients whose reply came after the deadline.
        lost: Clients that did not reply.
        surplus: Clients that were no longer needed when they answered.
        tasks: Training tasks behind the admitted replies.
        measures: Loss and measures of the query sets after adaptation, by name, and before it, by
            ``NAME_before``; empty where no client was admitted.
        update_norm: Norm of the aggregated pseudo-gradient before clipping; 0 if skipped.
        lr: The server's learning rate in this round.
        bytes_down: Bytes of arrays sent to the cohort.
        bytes_up: Bytes of arrays in its replies.
        evaluation: Results of the validation clients by adaptation step; None if not due.
        test: Results of the test clients, on other tasks than the final test; None if not due.
        clients: Every client of the cohort, by partition id.
    """

    round: int
    skipped: bool
    cohort: int
    admitted: int
    quarantined: int
    late: int
    lost: int
    surplus: int
    tasks: int
    measures: Mapping[str, float]
    update_norm: float
    lr: float
    bytes_down: int
    bytes_up: int
    evaluation: tuple[StepResult, ...] | None
    test: tuple[StepResult, ...] | None
    clients: tuple[ClientRecord, ...]

    @property
    def main(self) -> str:
        """Name of the main measure."""
        return main_of(name for name in self.measures if not name.endswith("_before"))

    @property
    def loss(self) -> float:
        """Query loss after adaptation; NaN where no client was admitted."""
        return self.measures.get(LOSS, math.nan)

    @property
    def loss_before(self) -> float:
        """Query loss before adaptation; NaN where no client was admitted."""
        return self.measures.get(f"{LOSS}_before", math.nan)

    @property
    def accuracy(self) -> float | None:
        """Query accuracy after adaptation; None where tasks have none."""
        return self.measures.get("accuracy")

    @property
    def accuracy_before(self) -> float | None:
        """Query accuracy before adaptation; None where tasks have none."""
        return self.measures.get("accuracy_before")


@dataclass(frozen=True)
class Snapshot:
    """All state that later rounds depend on, for resuming a run.

    Attributes:
        round: Finished rounds.
        state: The meta-learned state.
        optimizer: State of the server's optimizer as flat tensors; empty before its first step.
        constants: The model's tensors that are not learned, if read from a checkpoint; in training the
            model itself has them.
    """

    round: int
    state: "Tensors"
    optimizer: "Tensors"
    constants: "Tensors" = field(default_factory=dict)
