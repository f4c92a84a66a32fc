"""Where the clients of a run are: the engine that its config names, opened and closed."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from flwr.serverapp import Grid

from fedmeta.config import Config, parts, to_toml
from fedmeta.experiment import planning
from fedmeta.federation import Federation, Learner, Signatures, VectorGrid, require_ray
from fedmeta.federation.client_states import ClientStates
from fedmeta.federation.engines.client_app import ClientSide, build_side
from fedmeta.federation.engines.deployment import require_superlink
from fedmeta.federation.engines.deployment.session import open_deployment
from fedmeta.federation.engines.node_directory import Directory, ignore
from fedmeta.federation.engines.vector import open_vector
from fedmeta.federation.faults import FaultPlan, with_faults
from fedmeta.federation.signing import Checking, Seats


def require_engine(config: Config) -> None:
    """Check, before anything starts, that the engine of a config is there.

    Raises:
        UsageError: If its extra is not installed, its cluster or SuperLink cannot be reached, or its
            roster leaves a partition to nobody.
    """
    if config.engine == "ray":
        require_ray(config.ray)
    if config.engine == "deployment":
        require_superlink(config.deployment)
        if config.deployment.roster:
            from fedmeta.experiment.roster import Roster

            Roster.read(Path(config.deployment.roster)).require(config.clients)


def clients_side(config: Config) -> Callable[[], ClientSide]:
    """Return what builds the clients' side of a run in another process; it is picklable, and small."""
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
    """Open the way to the clients for training and test, and close it however the block ends.

    Args:
        config: The run's config.
        learner: The clients' side of its workload, in this process.
        signatures: How clients sign; None: they do not.
        first_round: The round that is asked first.
        grid: Flower's, if this is a ServerApp; None: open one.
        states: What clients remember, for algorithms that let them.
        refused: Called with a line about each node that was refused.
    """
    faults = parts.faults(config) if config.faults.any else None
    # A run that is not federated asks its clients once: in the test.
    rounds = max(1, config.rounds - first_round + 1) if config.training == "federated" else 1
    opened: AbstractContextManager[VectorGrid | Directory]
    if grid is not None:
        opened = nullcontext(Directory(grid, config.clients))
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
) -> AbstractContextManager[VectorGrid | Directory]:
    """Return the grid of the engine that a config names, not yet opened."""
    own = signatures if isinstance(signatures, Signatures) else None
    if config.engine == "vector" or config.training != "federated":
        return open_vector(learner, config.workers, rounds, planning.mods(config), own, faults, states)
    if config.engine == "deployment":
        seats, run_id = _seats(config, signatures, refused)
        return open_deployment(config.deployment, to_toml(config), config.clients, seats, run_id)
    from fedmeta.federation.engines.ray.session import open_ray

    return open_ray(clients_side(config), learner, config.ray, config.workers, own, states)


def _seats(
    config: Config, signatures: Checking | None, refused: Callable[[str], None]
) -> tuple[Seats | None, str]:
    """Return who may hold which partition, and the id that nodes sign under, by the config's roster."""
    if config.deployment.roster is None:
        return None, ""
    from fedmeta.experiment.accounts import RosterSeats, RosterSignatures
    from fedmeta.experiment.roster import Roster

    if isinstance(signatures, RosterSignatures):
        roster, run = signatures.roster, signatures.run
    else:
        # Nothing is paid; nodes prove who they are all the same.
        roster, run = Roster.read(Path(config.deployment.roster)), secrets.token_bytes(32)
    return RosterSeats(roster, run, refused), run.hex()
