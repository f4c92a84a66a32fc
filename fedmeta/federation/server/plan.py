"""What the server does each round."""

from dataclasses import dataclass, field

from fedmeta.errors import ConfigError
from fedmeta.federation.server.gate import GateOptions
from fedmeta.federation.server.optimizer import ServerOptions


@dataclass(frozen=True)
class Plan:
    """The server's side of a run.

    Attributes:
        rounds: Number of the last round; also the length of the learning-rate schedule.
        cohort: Training clients asked each round.
        quorum: Admitted replies below which a round is skipped.
        timeout: Seconds to wait for the replies of a round, and for the nodes to register.
        server: The server's optimizer.
        gate: The bounds on replies.
        evaluate_every: Rounds between evaluations of the validation clients; 0: never.
    """

    rounds: int
    cohort: int
    quorum: int = 1
    timeout: float = 600.0
    server: ServerOptions = field(default_factory=ServerOptions)
    gate: GateOptions = field(default_factory=GateOptions)
    evaluate_every: int = 0

    def __post_init__(self) -> None:
        if self.cohort < 1:
            raise ConfigError(f"cohort = {self.cohort}: a round needs at least one client")
        if not 0 <= self.quorum <= self.cohort:
            raise ConfigError(f"quorum = {self.quorum} is not within 0 and cohort = {self.cohort}")
        if not self.timeout > 0:
            raise ConfigError(f"timeout = {self.timeout}: must be above 0")
