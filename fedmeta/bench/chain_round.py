"""Time that the chain adds to a round of the quickstart."""

import statistics
import tempfile
import time
from pathlib import Path

from fedmeta.bench.result import Case, Goal, Result
from fedmeta.bench.timing import quartiles
from fedmeta.experiment import Listener, RunFolder, run

ROUNDS = 400
WARM_UP = 100
"""Rounds that are not counted: meanwhile web3 is imported and the contracts are deployed."""


def _round_ms(provider: str, out: Path) -> float:
    """Run the quickstart for `ROUNDS` rounds; return milliseconds a round, settling included."""
    settled_from: list[float] = []
    listener = Listener(settling=lambda _: settled_from.append(time.perf_counter()))
    settings = {"rounds": ROUNDS, "workers": 1, "test_clients": 6, "evaluation.tasks": 2}
    result = run("quickstart", settings | {"chain.provider": provider}, out=out, listener=listener)
    settling = time.perf_counter() - settled_from[0] if settled_from else 0.0
    rows = RunFolder.open(result.run).metrics()[WARM_UP:]
    training: float = sum(row["seconds"] for row in rows)
    return (training / len(rows) + settling / ROUNDS) * 1e3


def _measure(case: Case, runs: int) -> Result:
    with tempfile.TemporaryDirectory(prefix="fedmeta-bench-") as folder:
        pairs = [
            (
                _round_ms("none", Path(folder, f"{n}-none")),
                _round_ms("anvil", Path(folder, f"{n}-anvil")),
            )
            for n in range(runs)
        ]
    added = [with_chain - without for without, with_chain in pairs]
    without, with_chain = (statistics.median(side) for side in zip(*pairs, strict=True))
    return Result(
        case=case.name,
        measures=case.measures,
        ours_ms=with_chain,
        rival_ms=without,
        rival="the same round without a chain",
        ratio_is=None,
        threads=1,
        runs=runs,
        goals=(
            Goal("ms that the chain adds", statistics.median(added), 15.0, "at most", quartiles(added)),
        ),
    )


CASE = Case(
    "chain-round",
    "a quickstart round with its 24 clients recorded and paid on Anvil, settling and claims included",
    5,
    _measure,
)
