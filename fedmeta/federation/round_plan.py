"""`Plan`: what the server does in every round."""

from dataclasses import dataclass, field

from fedmeta.errors import ConfigError
from fedmeta.federation.aggregation import AggregationOptions
from fedmeta.federation.options import GateOptions, ServerOptions
from fedmeta.tasks import Split


@dataclass(frozen=True)
class Plan:
    """The server's side of a run.

    Attributes:
        rounds: Number of the last round; also the length of the learning-rate schedule.
        cohort: Training clients whose replies a round takes.
        quorum: Admitted replies below which a round is skipped.
        timeout: Seconds to wait for the replies of a round, and for the nodes to register.
        server: The server's optimizer.
        gate: The bounds on replies.
        aggregation: How admitted updates become one.
        evaluate_every: Rounds between evaluations of the validation clients; 0: never.
        track: Rounds between looks at the test clients; 0: never.
        oversample: Clients asked beyond the cohort; the first ``cohort`` sound replies are taken.
        checkpoint_every: Rounds between checkpoints, from the newest two of which the run is resumed;
            clients that remember keep as much as that takes. 0: there are none.
    """

    rounds: int
    cohort: int
    quorum: int = 1
    timeout: float = 600.0
    server: ServerOptions = field(default_factory=ServerOptions)
    gate: GateOptions = field(default_factory=GateOptions)
    aggregation: AggregationOptions = field(default_factory=AggregationOptions)
    evaluate_every: int = 0
    track: int = 0
    oversample: int = 0
    checkpoint_every: int = 0

    def __post_init__(self) -> None:
        if self.cohort < 1:
            raise ConfigError(f"cohort = {self.cohort}: a round needs at least one client")
        if self.oversample < 0:
            raise ConfigError(f"oversample = {self.oversample}: must be at least 0")
        if not 0 <= self.quorum <= self.cohort:
            raise ConfigError(f"quorum = {self.quorum} is not within 0 and cohort = {self.cohort}")
        if not self.timeout > 0:
            raise ConfigError(f"timeout = {self.timeout}: must be above 0")
        self.aggregation.check(self.quorum, self.cohort)

    @property
    def asked(self) -> int:
        """Clients asked each round."""
        return self.cohort + self.oversample

    def oldest(self, round_: int) -> int:
        """Return the first round from which the run may be resumed once a round has begun."""
        every = self.checkpoint_every
        # Two checkpoints are kept. An evaluated round has one too; that is newer than these.
        return max(0, every * ((round_ - 1) // every - 1)) if every else round_ - 1

    def evaluated(self, round_: int) -> list[Split]:
        """Return the splits of held-out clients that are evaluated after a round."""
        due: tuple[tuple[Split, int], ...] = (("validation", self.evaluate_every), ("test", self.track))
        return [split for split, every in due if every and round_ % every == 0]


def advice(plan: Plan) -> str:
    """Return what helps against a run that diverges."""
    if plan.server.clip_norm is None:
        return "clip the meta-gradient (server.clip_norm = 1.0, say) or lower the learning rates"
    return f"lower server.clip_norm (now {plan.server.clip_norm:g}) or the learning rates"
