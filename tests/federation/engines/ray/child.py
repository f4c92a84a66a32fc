"""Runs small federations on a Ray of its own, and writes down what came of them.

A process of its own, because Ray leaves files and processes to the garbage collector, of which the
tests' one would complain.
"""

import os
import pickle
import signal
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from fedmeta.federation import Federation, Learner, Plan, RoundRecord, Snapshot, Workload
from fedmeta.federation.engines.client_app import build_side
from fedmeta.federation.engines.ray import RayOptions
from fedmeta.federation.evaluation import EvaluationSums
from fedmeta.federation.faults import FaultyDelivery
from tests.federation.faults import everything
from tests.federation.helpers import SINUSOID
from tests.federation.helpers import train as train_federated

PLAN = Plan(rounds=4, cohort=8, timeout=240, evaluate_every=2)
BEHAVIOURS = [{"kind": "poison", "clients": [2, 5], "factor": 2.0}]
ODD = replace(SINUSOID, task="tests.federation.helpers:OddClients", data={})
ODD_PLAN = Plan(rounds=1, cohort=12, timeout=240)
ASLEEP = replace(SINUSOID, task="tests.federation.helpers:Asleep")
ASLEEP_PLAN = Plan(rounds=1, cohort=12, timeout=60)
FAULTY_TIMEOUT = 60.0


class Seen(NamedTuple):
    end: Snapshot
    records: list[RoundRecord]
    test: dict[int, EvaluationSums]


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def below() -> list[psutil.Process]:
    """Ray's processes that we are the parent of."""
    return [one for one in psutil.Process().children(recursive=True) if "ray" in command(one)]


def kill_a_worker() -> None:
    worker = next(one for one in below() if "ClientAppActor" in command(one))
    os.kill(worker.pid, signal.SIGKILL)


def train(federation: Federation, plan: Plan, kill_in: int = 0) -> Seen:
    records: list[RoundRecord] = []

    def observe(record: RoundRecord, _: Snapshot) -> None:
        records.append(record)
        if record.round == kill_in:
            # While the next round is under way.
            threading.Timer(0.02, kill_a_worker).start()

    end = train_federated(federation, plan, observe)
    return Seen(end, records, federation.test(end.state, "test", plan.timeout))


def session(workload: Workload, behaviours: list[dict[str, Any]], *runs: tuple[Plan, int]) -> list[Seen]:
    from fedmeta.federation.engines.ray.engine import open_ray

    learner = Learner.build(workload)
    with open_ray(partial(build_side, workload, behaviours), learner, RayOptions(), 2) as grid:
        return [train(Federation(learner, grid), plan, kill_in) for plan, kill_in in runs]


def faulty_session() -> Seen:
    from fedmeta.federation.engines.ray.engine import open_ray

    learner, faults = Learner.build(everything.CREW), everything.FAULTS
    build = partial(build_side, everything.CREW, [], faults)
    with open_ray(build, learner, RayOptions(), 2) as grid:
        return train(Federation(learner, FaultyDelivery(grid, faults)), everything.plan(FAULTY_TIMEOUT))


def on_cluster() -> None:
    """Train on the cluster at the address that the command line names; write to the file it names."""
    from fedmeta.federation.engines.ray.engine import open_ray

    learner, options = Learner.build(SINUSOID), RayOptions(address=sys.argv[1])
    with open_ray(partial(build_side, SINUSOID, BEHAVIOURS), learner, options) as grid:
        seen = train(Federation(learner, grid), PLAN)
    Path(sys.argv[2]).write_bytes(pickle.dumps(seen))


def main() -> None:
    """Write what was seen, and what is left of Ray, to the file that the command line names."""
    before = set(Path("/tmp").glob("fm-ray-*"))
    seen = session(SINUSOID, BEHAVIOURS, (PLAN, 0), (PLAN, 0), (PLAN, 1))
    seen += session(ODD, [], (ODD_PLAN, 0))
    seen += session(ASLEEP, [], (ASLEEP_PLAN, 0))
    seen.append(faulty_session())
    left = [command(one) for one in below()]
    left += [str(folder) for folder in set(Path("/tmp").glob("fm-ray-*")) - before]
    Path(sys.argv[1]).write_bytes(pickle.dumps((seen, left)))
