"""A plan with every fault of real-time engines: two rounds, thirteen clients."""

from collections.abc import Sequence
from dataclasses import replace

from fedmeta.federation import Plan, RoundRecord
from fedmeta.federation.faults import KINDS, FaultOptions, read_faults
from fedmeta.tasks import Population
from fedmeta.training import simulate
from tests.federation.helpers import SINUSOID

CREW = replace(SINUSOID, population=Population(13))
"""One client for each of the twelve faults of round 1, and one that replies normally."""
AT_ONCE = sorted(kind for kind in KINDS if kind not in ("move", "late", "vanish"))
ENTRIES = [
    *({"kind": kind, "clients": [client], "rounds": [1]} for client, kind in enumerate(AT_ONCE)),
    {"kind": "late", "clients": [0], "rounds": [2], "seconds": 1e4},
    {"kind": "late", "clients": [1], "rounds": [2], "seconds": 0.2},
    {"kind": "vanish", "clients": [2], "rounds": [2]},
]
FAULTS = read_faults(FaultOptions(entries=ENTRIES), CREW.population, 2, seed=0)


def plan(timeout: float) -> Plan:
    return Plan(rounds=2, cohort=13, timeout=timeout)


def fates(record: RoundRecord) -> dict[int, tuple[str, str | None]]:
    """Return each client's outcome and its reason."""
    return {client.client: (client.outcome, client.reason) for client in record.clients}


def check(records: Sequence[RoundRecord], timeout: float) -> None:
    """Check that outcomes equal those in simulated time, but that late replies are given up as lost."""
    simulated: list[RoundRecord] = []
    simulate(
        CREW,
        plan(timeout),
        observer=lambda record, _: simulated.append(record),
        faults=FAULTS,
    )
    assert len(AT_ONCE) == 12
    assert fates(records[0]) == fates(simulated[0])
    ours, theirs = fates(records[1]), fates(simulated[1])
    assert theirs.pop(0) == ("late", f"reply after 10000 s, not {timeout:g} s")
    assert ours.pop(0) == ("lost", f"no reply within {timeout:g} s")
    assert ours == theirs
    assert ours[1] == ("admitted", None)
    assert ours[2] == ("lost", f"no reply within {timeout:g} s")
