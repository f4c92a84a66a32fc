"""`Listener` and `Result`: a run's progress callbacks and its result."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmeta.config import Config
from fedmeta.errors import UsageError
from fedmeta.experiment.client_totals import ClientTotals
from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.recorder import RoundListener
from fedmeta.federation import StepResult
from fedmeta.files import finite
from fedmeta.options import nearest

if TYPE_CHECKING:
    from pandas import DataFrame

_LOGS: dict[str, Callable[[RunFolder], Sequence[Any]]] = {
    "metrics": RunFolder.metrics,
    "clients": RunFolder.clients,
    "test": RunFolder.test,
}


def ignore(*_: object) -> None:
    """Ignore an event."""


@dataclass(frozen=True)
class Listener:
    """Callbacks of a run; each is optional.

    Attributes:
        started: Called once with the run's folder, its config, and the number of finished rounds.
        round: Called after each round.
        testing: Called after training, with the number of test clients.
        settling: Called before waiting for the ledger, with the number of its rounds.
        note: Called with a line about each finding, such as a damaged checkpoint.
        failure: Called with the traceback of each kind of client failure when it first occurs.
    """

    started: Callable[[RunFolder, Config, int], None] = ignore
    round: RoundListener = ignore
    testing: Callable[[int], None] = ignore
    settling: Callable[[int], None] = ignore
    note: Callable[[str], None] = ignore
    failure: Callable[[str], None] = ignore


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
        status: ``finished``.
        run: The run's folder.
        experiment: Name of the experiment.
        tasks: Training tasks that entered the model.
        wall_seconds: Time spent, over all processes that worked on the run.
        final: Test clients' results by adaptation step; empty without test clients.
        participants: Clients' contributions and earnings; empty where nothing is paid.
        replies: Outcomes of all replies (see `fedmeta.experiment.client_totals`).
        chain: State of the ledger (see `fedmeta.chain.settle.settlement.Settled`); None without one.
    """

    status: str
    run: Path
    experiment: str
    algorithm: str
    engine: str
    seed: int
    rounds: int
    clients: int
    tasks: int
    wall_seconds: float
    final: tuple[StepResult, ...]
    participants: tuple[ClientTotals, ...] = ()
    chain: dict[str, Any] | None = None
    replies: dict[str, Any] | None = None

    def frame(self, log: str = "final") -> "DataFrame":
        """Return a part of the run as a pandas frame.

        Args:
            log: ``final``, held-out results, a row per adaptation step; ``metrics``, a row per round;
                ``clients``, a row per client and round; ``test``, a row per test client and step.

        Raises:
            UsageError: If pandas is not installed, or there is no such log.
        """
        try:
            import pandas
        except ModuleNotFoundError:
            raise UsageError("a frame needs pandas: pip install pandas") from None
        if log == "final":
            return pandas.DataFrame([step.to_json() for step in self.final]).set_index("step")
        if log not in _LOGS:
            raise UsageError(f"no log '{log}': {nearest(log, ['final', *_LOGS])}")
        return pandas.DataFrame(_LOGS[log](RunFolder.open(self.run)))

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values; a number that is not finite is None."""
        final = [step.to_json() for step in self.final]
        values: dict[str, Any] = finite(asdict(self) | {"final": final})
        return values | {"run": str(self.run)}
