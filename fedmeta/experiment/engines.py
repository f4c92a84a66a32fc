"""Where the clients of a run are: the engine that its config names, opened and closed."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from fedmeta.experiment import plan as planning
from fedmeta.experiment.config import Config
from fedmeta.federation import Federation, Learner, Signatures
from fedmeta.federation.remote.app import build_side

ENGINE_KEYS = ("engine", "ray.address")
"""Keys that say where clients run, and not what they compute."""


@contextmanager
def open_federation(
    config: Config, learner: Learner, signatures: Signatures | None
) -> Iterator[Federation | None]:
    """Open the way to the clients for training and test, and close it however the block ends.

    Args:
        config: The run's config.
        learner: The clients' side of its workload, in this process.
        signatures: How clients sign; None: they do not.

    Returns:
        None where clients are computed in this process, or there is no federation: training and test
        then need nothing that outlives them.
    """
    if config.training != "federated" or config.engine == "vector":
        yield None
        return
    from fedmeta.federation.ray.session import open_ray

    build = partial(build_side, planning.workload(config), config.behaviours)
    with open_ray(build, learner, config.ray, config.workers, signatures) as grid:
        yield Federation(learner, grid)
