"""What a round leaves behind: plain values that an observer may write down."""

from dataclasses import dataclass, field

from fedmeta.federation.refusal import Outcome, Refusal
from fedmeta.learning import Tensors


@dataclass(frozen=True)
class SignedUpdate:
    """Proof of who contributed what.

    Attributes:
        account: Address of the client.
        digest: SHA-256 of the update's values.
        signature: The client's signature under round, task count and digest.
    """

    account: str
    digest: bytes
    signature: bytes


@dataclass(frozen=True)
class Award:
    """What an admitted update was worth.

    Attributes:
        score: By the rule of the run, higher is better.
        reward: Token units it is paid.
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
        loss: Query loss after adaptation as the client reports it; None if not admitted.
        accuracy: Query accuracy after adaptation; None if not admitted, and for regression.
        signed: Proof of who sent it; None if not admitted, and where replies are not signed.
        award: What it was worth; None if not admitted, and where nothing is paid.
    """

    round: int
    client: int
    tasks: int
    norm: float | None
    admitted: bool
    refusal: Refusal | None
    loss: float | None
    accuracy: float | None
    signed: SignedUpdate | None = None
    award: Award | None = None

    @property
    def reason(self) -> str | None:
        """Why it was not admitted, in one line; None if it was."""
        return self.refusal.reason if self.refusal else None

    @property
    def outcome(self) -> Outcome:
        """What became of it."""
        return self.refusal.code.outcome if self.refusal else "admitted"


@dataclass(frozen=True)
class StepResult:
    """How well held-out clients do after a number of adaptation steps.

    All steps of an evaluation are over the same clients and tasks. A task whose loss is not finite has
    diverged and counts as the worst: its accuracy is 0 and its loss infinite.

    The intervals over clients, whose tasks reuse the same few examples, say how sure the mean is for new
    clients; those over tasks, for new tasks of the same clients, as if tasks were independent.

    Attributes:
        step: Adaptation steps.
        loss: Mean query loss over tasks; infinite if one diverged.
        accuracy: Mean query accuracy over tasks; None for regression.
        ci95: Half the width of the 95% confidence interval over clients, see
            `fedmeta.federation.evaluation.clustered_half_width`, of the accuracy, or of the loss for
            regression; None with one client, and of a loss that is infinite.
        tasks: How many tasks were averaged, those that diverged among them.
        loss_ci95: The same half width, of the loss.
        inductive_accuracy: Accuracy with batch-norm statistics of the support set alone; None for
            models without batch norm and for regression.
        inductive_ci95: Its half width.
        tasks_ci95: Half the width of the 95% interval over tasks, ``1.96 s / sqrt(n)``, of what `ci95`
            is of; None with one task, and of a loss that is infinite.
        loss_tasks_ci95: The same, of the loss.
        inductive_tasks_ci95: The same, of the inductive accuracy.
        diverged: How many tasks diverged.
        diverged_clients: How many clients they belong to.
        finite_loss: Mean query loss over the tasks that did not diverge; None if all did.
        clients: Clients that answered, whose tasks these are.
        clients_asked: Clients that were asked.
    """

    step: int
    loss: float
    accuracy: float | None
    ci95: float | None
    tasks: int
    loss_ci95: float | None
    inductive_accuracy: float | None
    inductive_ci95: float | None
    tasks_ci95: float | None
    loss_tasks_ci95: float | None
    inductive_tasks_ci95: float | None
    diverged: int
    diverged_clients: int
    finite_loss: float | None
    clients: int
    clients_asked: int


@dataclass(frozen=True)
class RoundRecord:
    """One finished round. Means are over the tasks of the admitted clients, NaN where there are none.

    Attributes:
        round: Counted from 1.
        skipped: Whether fewer clients than the quorum were admitted, so that the state did not change.
        cohort: Clients that were asked.
        admitted: Clients whose reply was aggregated.
        quarantined: Clients whose reply was refused.
        late: Clients whose reply came after the deadline.
        lost: Clients of whom nothing was heard.
        surplus: Clients that were not needed any more when they answered.
        tasks: Training tasks behind the admitted replies.
        loss: Query loss after adaptation.
        loss_before: Query loss before adaptation.
        accuracy: Query accuracy after adaptation; None for regression.
        accuracy_before: Query accuracy before adaptation; None for regression.
        update_norm: Norm of the aggregated pseudo-gradient before clipping; 0 if skipped.
        lr: The server's learning rate in this round.
        bytes_down: Bytes of arrays sent to the cohort.
        bytes_up: Bytes of arrays in its replies.
        evaluation: Results of the validation clients by adaptation step; None if not due.
        test: A look at the test clients, on tasks that the final test does not use; None if not due.
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
    loss: float
    loss_before: float
    accuracy: float | None
    accuracy_before: float | None
    update_norm: float
    lr: float
    bytes_down: int
    bytes_up: int
    evaluation: tuple[StepResult, ...] | None
    test: tuple[StepResult, ...] | None
    clients: tuple[ClientRecord, ...]


@dataclass(frozen=True)
class Snapshot:
    """All that a run needs to go on: training after round 900 depends on nothing else before it.

    Attributes:
        round: Finished rounds.
        state: The meta-learned state.
        optimizer: State of the server's optimizer as flat tensors; empty before its first step.
        constants: What the model holds and nobody learns, where a checkpoint was read; while training it
            is the model's own.
    """

    round: int
    state: Tensors
    optimizer: Tensors
    constants: Tensors = field(default_factory=dict)
