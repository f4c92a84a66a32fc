"""Costs of the chain: gas, time to settle a round of 10,000 participants, and time added to a round."""

import statistics
import tempfile
import time
from pathlib import Path

from fedmeta.bench.result import Case, Goal, Result
from fedmeta.bench.timing import quartiles
from fedmeta.chain import ChainOptions, require_extra


def _measure_cost(case: Case, runs: int) -> Result:
    require_extra()
    from fedmeta.bench.settlement_costs import FEW, measure_costs

    seen = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="fedmeta-bench-") as folder:
            seen.append(measure_costs(ChainOptions(provider="anvil"), Path(folder)))
    records = [gas for c in seen for gas in (c.first_record_gas, c.small_record_gas, c.large_record_gas)]
    participants = seen[0].participants
    seconds = statistics.median(cost.settle_seconds for cost in seen)
    return Result(
        case=case.name,
        measures=case.measures,
        ours_ms=seconds * 1e3,
        rival_ms=None,
        rival=None,
        ratio_is=None,
        threads=1,
        runs=runs,
        goals=(
            Goal(f"seconds to settle {participants:,} participants", seconds, 2.0, "at most"),
            Goal("gas of the costliest record", max(records), 105_000, "at most"),
            Goal("gas of a first claim", max(c.fresh_claim_gas for c in seen), 90_000, "at most"),
        ),
        details={
            f"gas of a record, {FEW} clients": max(c.small_record_gas for c in seen),
            f"gas of a record, {participants:,} clients": max(c.large_record_gas for c in seen),
            "gas of the same account's next claim": max(c.warm_claim_gas for c in seen),
            "gas of a first claim among 100": max(c.batched_claim_gas for c in seen),
        },
    )


COST = Case(
    "chain-cost",
    "records with 3 of 5 signatures and claims on Anvil, 10 and 10,000 participants "
    "(ours: trees, signatures, transaction and receipt of the large round)",
    3,
    _measure_cost,
)


ROUNDS = 400
WARM_UP = 100
"""Rounds not counted, during which web3 is imported and the contracts are deployed."""


def _round_ms(provider: str, out: Path) -> float:
    """Run the quickstart for `ROUNDS` rounds; return milliseconds per round, including settlement."""
    # Imported here, as passes of the garbage collector over more modules fall into `_measure_cost`.
    from fedmeta.experiment import Listener, RunFolder, run

    settled_from: list[float] = []
    listener = Listener(settling=lambda _: settled_from.append(time.perf_counter()))
    settings = {"rounds": ROUNDS, "workers": 1, "test_clients": 6, "evaluation.tasks": 2}
    result = run("quickstart", settings | {"chain.provider": provider}, out=out, listener=listener)
    settling = time.perf_counter() - settled_from[0] if settled_from else 0.0
    rows = RunFolder.open(result.run).metrics()[WARM_UP:]
    training: float = sum(row["seconds"] for row in rows)
    return (training / len(rows) + settling / ROUNDS) * 1e3


def _measure_round(case: Case, runs: int) -> Result:
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


ROUND = Case(
    "chain-round",
    "a quickstart round with its 24 clients recorded and paid on Anvil, settling and claims included",
    5,
    _measure_round,
)
