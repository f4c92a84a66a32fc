"""Synthetic runs in processes that die: a server that has imported everything forks one for each."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

from fedmeta.chain.chain import open_chain
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.settle.settlement import Hooks, Settlement
from tests.chain.settle.faults import FaultyChain
from tests.chain.settle.rounds import POT, synthetic_rounds

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
    with Settlement.open(folder, run.options, bytes.fromhex(run.run), budget, hooks) as settlement:
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


class ForkServer:
    """Runs `Run`s, each in a process of its own, at the price of a fork."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chain.settle.forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout

    def run(self, run: Run) -> int:
        """Return the exit status: negative if a signal ended it."""
        self._in.write(json.dumps(asdict(run)) + "\n")
        self._in.flush()
        return int(self._out.readline())

    def close(self) -> None:
        self._in.close()
        self._process.wait()
        self._out.close()


def _child(run: Run) -> None:
    status = 70
    try:
        status = drive(run)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def _serve() -> None:
    # What is imported late is imported now, so that a fork has it.
    for module in ("settle.settlement", "providers.embedded", "rpc", "nodes.node"):
        import_module(f"fedmeta.chain.{module}")
    for line in sys.stdin:
        run = Run(**json.loads(line))
        child = os.fork()
        if child == 0:
            _child(run)
        if run.kill_after is not None:
            _kill_after(child, run.kill_after)
        else:
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)


def _kill_after(child: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            print(os.waitstatus_to_exitcode(status), flush=True)
            return
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve()
