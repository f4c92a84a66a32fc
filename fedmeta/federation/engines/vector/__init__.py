"""The in-process engine: a Flower grid that computes a cohort in stacked batches."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from flwr.clientapp.typing import Mod

from fedmeta.federation.accounts import Signatures
from fedmeta.federation.client_states import ClientStates
from fedmeta.federation.engines.vector.grid import VectorGrid
from fedmeta.federation.engines.vector.jobs import Workers
from fedmeta.federation.engines.vector.pool import build_executor
from fedmeta.federation.faults import FaultPlan
from fedmeta.federation.flower import as_server
from fedmeta.federation.learner import Learner
from fedmeta.learning import keep_freed_memory
from fedmeta.learning.device import one_thread


@contextmanager
def open_vector(  # noqa: PLR0913 (all but one are optional)
    learner: Learner,
    workers: Workers = 1,
    rounds: int = 1,
    mods: Mapping[int, Sequence[Mod]] | None = None,
    signatures: Signatures | None = None,
    faults: FaultPlan | None = None,
    states: ClientStates | None = None,
) -> Iterator[VectorGrid]:
    """Open a `VectorGrid` and its executor; workers end with the block, however it ends.

    Args:
        learner: The clients' side of the workload.
        workers: Processes that compute; ``auto`` measures first.
        rounds: Length of the run, for ``auto``.
        mods: Flower mods by client.
        signatures: Signs as each client; None: replies are not signed.
        faults: Faults of clients; see `with_faults` for faults of delivery.
        states: Clients' memory; None: it is held in RAM and lost after the block.
    """
    keep_freed_memory()
    with one_thread(), as_server(), build_executor(learner, workers, rounds) as executor:
        yield VectorGrid(learner, executor, mods, signatures, faults, states)
