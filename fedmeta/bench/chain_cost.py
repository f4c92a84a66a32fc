"""Gas of records and claims, and the time that a round of 10,000 participants takes to settle."""

import statistics
import tempfile
from pathlib import Path

from fedmeta.bench.result import Case, Goal, Result
from fedmeta.chain import ChainOptions, require_extra


def _measure(case: Case, runs: int) -> Result:
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
            Goal("gas of a record, the dearest", max(records), 105_000, "at most"),
            Goal("gas of a first claim", max(c.fresh_claim_gas for c in seen), 90_000, "at most"),
        ),
        details={
            f"gas of a record, {FEW} clients": max(c.small_record_gas for c in seen),
            f"gas of a record, {participants:,} clients": max(c.large_record_gas for c in seen),
            "gas of the same account's next claim": max(c.warm_claim_gas for c in seen),
            "gas of a first claim among 100": max(c.batched_claim_gas for c in seen),
        },
    )


CASE = Case(
    "chain-cost",
    "records with 3 of 5 signatures and claims on Anvil, 10 and 10,000 participants "
    "(ours: trees, signatures, transaction and receipt of the large round)",
    3,
    _measure,
)
