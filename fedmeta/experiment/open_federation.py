"""Opens and closes the engine of a run's config, which runs its clients."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from flwr.serverapp import Grid

from fedmeta.config import Config, parts, to_toml
from fedmeta.experiment import planning
from fedmeta.federation import Federation, Learner, Signatures, VectorGrid, require_ray
from fedmeta.federation.accounts import Checking, Seats
from fedmeta.federation.client_states import ClientStates
from fedmeta.federation.engines.client_app import ClientSide, build_side
from fedmeta.federation.engines.deployment import require_superlink
from fedmeta.federation.engines.deployment.superlink import open_deployment
from fedmeta.federation.engines.node_directory import NodeDirectory, ignore
from fedmeta.federation.engines.vector import open_vector
from fedmeta.federation.faults import FaultPlan, with_faults


def require_engine(config: Config) -> None:
    """Check, before anything starts, that the engine of a config is available.

    Raises:
        UsageError: If its extra is not installed, its cluster or SuperLink cannot be reached, or its
            roster is incomplete.
    """
    if config.engine == "ray":
        require_ray(config.ray)
    if config.engine == "deployment":
        require_superlink(config.deployment)
        if config.deployment.roster:
            from fedmeta.experiment.roster import Roster

            Roster.read(Path(config.deployment.roster)).require(config.clients)


def clients_side(config: Config) -> Callable[[], ClientSide]:
    """Return a small picklable function that builds the clients' side of a run in another process."""
    faults = parts.faults(config) if config.faults.any else None
    return partial(build_side, planning.workload(config), config.behaviours, faults, config.mods)


@contextmanager
def open_federation(  # noqa: PLR0913 (three are optional)
    config: Config,
    learner: Learner,
    signatures: Checking | None,
    first_round: int = 1,
    grid: Grid | None = None,
    states: ClientStates | None = None,
    refused: Callable[[str], None] = ignore,
) -> Iterator[Federation]:
    """Connect to the clients for training and test, and disconnect however the block ends.

    Args:
        config: The run's config.
        learner: The clients' side of its workload, in this process.
        signatures: How clients sign; None: they do not.
        first_round: The first round to be requested.
        grid: Flower's grid, if this is a ServerApp; None: open one.
        states: Clients' memory, for algorithms that use it.
        refused: Called with a line about each refused node.
    """
    faults = parts.faults(config) if config.faults.any else None
    # A run that is not federated sends requests once, in the test.
    rounds = max(1, config.rounds - first_round + 1) if config.training == "federated" else 1
    opened: AbstractContextManager[VectorGrid | NodeDirectory]
    if grid is not None:
        opened = nullcontext(NodeDirectory(grid, config.clients))
    else:
        opened = _grid(config, learner, signatures, refused, faults, rounds, states)
    with opened as found:
        faulty = with_faults(found, faults, first_round) if faults else found
        yield Federation(learner, faulty, in_turn=isinstance(found, VectorGrid), states=states)


def _grid(  # noqa: PLR0913 (what `open_federation` was given)
    config: Config,
    learner: Learner,
    signatures: Checking | None,
    refused: Callable[[str], None],
    faults: FaultPlan | None,
    rounds: int,
    states: ClientStates | None,
) -> AbstractContextManager[VectorGrid | NodeDirectory]:
    """Return the unopened grid of a config's engine."""
    own = signatures if isinstance(signatures, Signatures) else None
    if config.engine == "vector" or config.training != "federated":
        return open_vector(learner, config.workers, rounds, planning.mods(config), own, faults, states)
    if config.engine == "deployment":
        seats, run_id = _seats(config, signatures, refused)
        return open_deployment(config.deployment, to_toml(config), config.clients, seats, run_id)
    from fedmeta.federation.engines.ray.engine import open_ray

    return open_ray(clients_side(config), learner, config.ray, config.workers, own, states)


def _seats(
    config: Config, signatures: Checking | None, refused: Callable[[str], None]
) -> tuple[Seats | None, str]:
    """Return the seats by the config's roster, and the run id that nodes sign."""
    if config.deployment.roster is None:
        return None, ""
    from fedmeta.experiment.accounts import RosterSeats, RosterSignatures
    from fedmeta.experiment.roster import Roster

    if isinstance(signatures, RosterSignatures):
        roster, run = signatures.roster, signatures.run
    else:
        # Nothing is paid, but nodes still prove which partition they hold.
        roster, run = Roster.read(Path(config.deployment.roster)), secrets.token_bytes(32)
    return RosterSeats(roster, run, refused), run.hex()
