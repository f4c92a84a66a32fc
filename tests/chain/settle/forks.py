"""Synthetic runs in processes that are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from fedmeta.chain.chain import open_chain
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.settle.settlement import Hooks, Settlement
from tests import processes
from tests.chain.settle.faults import FaultyChain
from tests.chain.settle.rounds import POT, synthetic_rounds

ROOT = Path(__file__).resolve().parents[3]
COMPLETE = 0
INCOMPLETE = 3


@dataclass(frozen=True)
class Run:
    """A synthetic run, and when its process dies.

    Attributes:
        folder: The settlement's.
        provider: As in the options.
        run: The run's id, hexadecimal.
        rounds: How many.
        clients: In each round.
        kill_at: Number of the journal's step event at which the process kills itself.
        kill_on: Step event at which it does, such as ``before sent``.
        kill_after: Seconds after which it is killed.
        seed: Of its faults; None: the chain behaves.
        reorgs: How blocks vanish as well; see `FaultyChain`.
        seconds: Time to finish.
    """

    folder: str
    provider: str
    run: str
    rounds: int = 6
    clients: int = 3
    kill_at: int | None = None
    kill_on: str | None = None
    kill_after: float | None = None
    seed: int | None = None
    reorgs: str | None = None
    seconds: float = 60.0

    @property
    def options(self) -> ChainOptions:
        return ChainOptions(provider=self.provider, pot=1)


def drive(run: Run) -> int:
    """Freeze, settle and claim; return whether all is done."""
    events = 0

    def hook(event: str) -> None:
        nonlocal events
        events += 1
        if events == run.kill_at or event == run.kill_on:
            os.kill(os.getpid(), signal.SIGKILL)

    def connect(options: ChainOptions, folder: Path) -> FaultyChain:
        chain = open_chain(options, folder)
        if run.seed is None:
            return chain
        return FaultyChain(chain, f"{run.seed} {time.monotonic_ns()}", reorgs=run.reorgs)

    folder, budget = Path(run.folder), run.rounds * POT
    hooks = Hooks(connect=connect, step=hook)
    with Settlement(folder, run.options, bytes.fromhex(run.run), budget, hooks) as settlement:
        rounds = synthetic_rounds(run.rounds, clients=run.clients)[settlement.frozen :]
        if rounds:
            settlement.freeze(rounds[:2])
        settlement.start()
        for frozen in rounds[2:]:
            settlement.freeze([frozen])
        settled = settlement.finish(run.seconds)
    if not settled.complete:
        print(settled, file=sys.stderr)
    return COMPLETE if settled.complete else INCOMPLETE


def execute(run: Run) -> int:
    """Drive a run in a process of its own; return the exit status: negative if a signal ended it."""
    code = f"from {__name__} import main; main()"
    with processes.Popen([sys.executable, "-c", code, json.dumps(asdict(run))], cwd=ROOT) as process:
        try:
            return process.wait(run.kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def main() -> None:
    """Drive the run of the command line."""
    sys.exit(drive(Run(**json.loads(sys.argv[1]))))
