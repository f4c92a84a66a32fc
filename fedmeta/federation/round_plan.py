"""`Plan`: the server's settings for every round."""

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
        quorum: Least admitted replies; with fewer the round is skipped.
        timeout: Seconds to wait for the replies of a round, and for the nodes to register.
        server: The server's optimizer.
        gate: The bounds on replies.
        aggregation: The aggregation rule.
        evaluate_every: Rounds between evaluations of the validation clients; 0: never.
        track: Rounds between evaluations of the test clients; 0: never.
        oversample: Clients asked beyond the cohort; the first ``cohort`` valid replies are used.
        checkpoint_every: Rounds between checkpoints; 0: none. A run resumes from one of the latest two,
            and clients keep enough memory for that.
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
        """Return the earliest round from which the run can resume once a round has begun."""
        every = self.checkpoint_every
        # Two checkpoints are kept, besides any newer one of an evaluated round.
        return max(0, every * ((round_ - 1) // every - 1)) if every else round_ - 1

    def evaluated(self, round_: int) -> list[Split]:
        """Return the splits of held-out clients that are evaluated after a round."""
        due: tuple[tuple[Split, int], ...] = (("validation", self.evaluate_every), ("test", self.track))
        return [split for split, every in due if every and round_ % every == 0]


def advice(plan: Plan) -> str:
    """Return advice for a run that diverges."""
    if plan.server.clip_norm is None:
        return "clip the meta-gradient (server.clip_norm = 1.0, say) or lower the learning rates"
    return f"lower server.clip_norm (now {plan.server.clip_norm:g}) or the learning rates"
