"""Opens the way to the SuperNodes of a SuperLink, and ends what it started there."""

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fedmeta.errors import RunError, UsageError
from fedmeta.federation.deployment.lending import Desk
from fedmeta.federation.deployment.options import DeploymentOptions, require_superlink
from fedmeta.federation.deployment.submission import CONNECTION, flwr, submit
from fedmeta.federation.flower import as_server
from fedmeta.federation.remote.directory import Directory

CONFIG_KEY, LINE_KEY = "config", "line"
"""Keys of the run config: all that clients must know, and where the server waits for its grid."""
START_SECONDS = 180.0
"""How long the SuperLink may take to start its ServerApp."""
_ENDED = ("finished", "stopped", "failed")


@contextmanager
def open_deployment(options: DeploymentOptions, config: str, clients: int) -> Iterator[Directory]:
    """Open a grid of the SuperNodes that are connected to a SuperLink.

    Args:
        options: Where it is; on this machine.
        config: All that clients must know, as text; they find it in their context's run config.
        clients: Partitions are 0 up to this number; each node is told its own by its node config.

    Raises:
        UsageError: If the SuperLink cannot be reached or does not take the app.
        RunError: If it did not start the app.
    """
    require_superlink(options)
    with tempfile.TemporaryDirectory(prefix="fm-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with Desk(folder) as desk:
            run = submit(options, {CONFIG_KEY: config, LINE_KEY: desk.line}, folder)
            with _stopped_at_the_end(folder, run):
                grid = desk.borrow(START_SECONDS, lambda: None)
                with closing(grid), as_server(grid.run.run_id):
                    yield Directory(grid, clients)


@contextmanager
def _stopped_at_the_end(folder: Path, run: int) -> Iterator[None]:
    """Stop the run on the SuperLink if the block failed; else its ServerApp ends by itself."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(UsageError, RunError, OSError):
            flwr(folder / "home", "stop", str(run), CONNECTION)
        raise
