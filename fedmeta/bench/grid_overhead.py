"""Overhead of a round besides learning: messages, serialization, gate and average."""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmeta.bench.result import Case, Goal, Result, ratio
from fedmeta.bench.rounds import Flat, NoData, NoLearning
from fedmeta.bench.timing import Timing
from fedmeta.errors import RunError
from fedmeta.federation import Plan, RoundRecord, Snapshot, Workload
from fedmeta.learning import AlgorithmSetup
from fedmeta.tasks import Population
from fedmeta.training import simulate

CLIENTS = 1000
RIVAL = "np.save + np.load"
Arrays = Sequence[NDArray[Any]]


@dataclass(frozen=True)
class Overhead:
    """Times of rounds, and of saving and loading the same bytes with NumPy, in turns.

    Attributes:
        rounds: A whole round.
        saved: `np.save` and `np.load` of every client's update, tensor by tensor.
        update_bytes: Size of one client's update.
    """

    rounds: Timing
    saved: Timing
    update_bytes: int


def flat_workload(clients: int, size: int = 112_500) -> Workload:
    """Return a workload whose updates are one tensor of 450 KB."""
    return _workload(clients, [1], f"{Flat.__module__}:{Flat.__name__}", {"size": size})


def conv4_workload(clients: int) -> Workload:
    """Return a workload with Conv4-64's updates: 112,005 numbers in 14 tensors, 448 KB."""
    return _workload(clients, [28, 28], "conv4", {"width": 64})


def mlp_workload(clients: int) -> Workload:
    """Return a workload with the sinusoid MLP's updates: 1,761 numbers in 6 tensors."""
    return _workload(clients, [1], "mlp", {"hidden": [40, 40]})


def _workload(clients: int, shape: list[int], model: str, network: dict[str, Any]) -> Workload:
    here = NoData.__module__
    setup = AlgorithmSetup(f"{here}:{NoLearning.__name__}", {}, model, network)
    data = {"input_shape": shape, "outputs": 5 if len(shape) > 1 else 1}
    return Workload(f"{here}:{NoData.__name__}", data, Population(clients), setup, seed=0)


def measure_overhead(workload: Workload, runs: int) -> Overhead:
    """Time whole rounds of all clients; after each, save and load the same bytes with NumPy.

    A round lasts from the end of one observer call to the next call: strategy, VectorGrid, codec, gate,
    average, server step and snapshot. The first round is not counted.

    Raises:
        RunError: If a reply was not admitted.
    """
    clients = len(workload.population)
    rounds: list[float] = []
    saved: list[float] = []
    sizes: set[int] = set()
    mark = time.perf_counter()

    def observe(record: RoundRecord, snapshot: Snapshot) -> None:
        nonlocal mark
        ended = time.perf_counter()
        if record.admitted != clients:
            raise RunError(f"bench: only {record.admitted} of {clients} replies were admitted")
        arrays = [value.numpy() for value in snapshot.state.values()]
        sizes.add(sum(array.nbytes for array in arrays))
        if record.round > 1:
            rounds.append((ended - mark) * 1e3)
            saved.append(_save_and_load(arrays, clients))
        mark = time.perf_counter()

    simulate(workload, Plan(rounds=runs + 1, cohort=clients), observer=observe)
    return Overhead(Timing(tuple(rounds)), Timing(tuple(saved)), sizes.pop())


def _save_and_load(arrays: Arrays, clients: int) -> float:
    """Return the milliseconds to save and load the arrays in memory once per client."""
    began = time.perf_counter()
    for _ in range(clients):
        for array in arrays:
            written = io.BytesIO()
            np.save(written, array, allow_pickle=False)
            np.load(io.BytesIO(written.getvalue()), allow_pickle=False)
    return (time.perf_counter() - began) * 1e3


def _measure(case: Case, runs: int) -> Result:
    flat = measure_overhead(flat_workload(CLIENTS), runs)
    conv4 = measure_overhead(conv4_workload(CLIENTS), runs)
    small = measure_overhead(mlp_workload(CLIENTS), runs)
    times, spread = ratio(flat.rounds, flat.saved)
    low, high = small.rounds.quartiles
    each = small.rounds.median / CLIENTS
    return Result(
        case=case.name,
        measures=case.measures,
        ours_ms=flat.rounds.median,
        rival_ms=flat.saved.median,
        rival=RIVAL,
        ratio_is="ours / rival",
        threads=1,
        runs=runs,
        goals=(
            Goal(f"times as long as {RIVAL}", times, 2.5, "at most", spread),
            Goal("MLP, 7 KB: ms a client", each, 0.1, "at most", (low / CLIENTS, high / CLIENTS)),
        ),
        others_ms={f"Conv4-64's 14 tensors, {RIVAL}": conv4.saved.median},
        details={
            "ms a client": flat.rounds.median / CLIENTS,
            "Conv4-64's 14 tensors: ms a client": conv4.rounds.median / CLIENTS,
            "Conv4-64's 14 tensors: times as long": ratio(conv4.rounds, conv4.saved)[0],
            "Conv4-64's 14 tensors: times one array": ratio(conv4.rounds, flat.saved)[0],
            "MLP's 6 tensors: times as long": ratio(small.rounds, small.saved)[0],
        },
    )


CASE = Case(
    "grid-overhead",
    "one round of 1,000 clients that do no work and send 450 KB each: messages, gate, average, step",
    7,
    _measure,
)
