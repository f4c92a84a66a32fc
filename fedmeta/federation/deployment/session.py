"""Opens the way to the SuperNodes of a SuperLink, and ends what it started there."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

from fedmeta.errors import RunError, UsageError
from fedmeta.federation.deployment.lending import Desk
from fedmeta.federation.deployment.options import DeploymentOptions, require_superlink
from fedmeta.federation.deployment.submission import CONNECTION, flwr, submit
from fedmeta.federation.flower import as_server
from fedmeta.federation.remote.directory import Directory
from fedmeta.federation.signing import Seats

CONFIG_KEY, LINE_KEY, VERSION_KEY, RUN_KEY = "config", "line", "fedmeta", "signed-run"
"""Keys of the run config: all that clients must know, where the server waits, its version, and the id
that nodes sign under, as hexadecimal."""
STOP_SECONDS = 15.0
"""How long it may take to stop a run that failed here; one that cannot be reached has stopped it."""
START_SECONDS = 180.0
"""How long the SuperLink may take to start its ServerApp."""


@contextmanager
def open_deployment(
    options: DeploymentOptions, config: str, clients: int, seats: Seats | None = None, run_id: str = ""
) -> Iterator[Directory]:
    """Open a grid of the SuperNodes that are connected to a SuperLink.

    Args:
        options: Where it is; on this machine.
        config: All that clients must know, as text; they find it in their context's run config.
        clients: Partitions are 0 up to this number; each node is told its own by its node config.
        seats: Decides which node may hold which; None: any node any.
        run_id: What nodes sign under; empty: they do not.

    Raises:
        UsageError: If the SuperLink cannot be reached or does not take the app.
        RunError: If it did not start the app.
    """
    require_superlink(options)
    # A socket's path may have no more than 107 bytes.
    short = "/tmp" if os.path.isdir("/tmp") else None
    with tempfile.TemporaryDirectory(prefix="fm-", dir=short, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with Desk(folder) as desk:
            told = {CONFIG_KEY: config, LINE_KEY: desk.line, VERSION_KEY: version("fedmeta")}
            told[RUN_KEY] = run_id
            run = submit(options, told, folder)
            with _stopped_if_it_fails(folder, run):
                grid = desk.borrow(START_SECONDS, partial(_require_alive, folder, run))
                with closing(grid), as_server(grid.run.run_id):
                    yield Directory(grid, clients, seats=seats)


def _require_alive(folder: Path, run: int) -> None:
    """Raise if the SuperLink gave the run up before its ServerApp came.

    Raises:
        RunError: If it did, with what it says about it.
    """
    try:
        listed = flwr(folder / "home", "list", "--run-id", str(run), CONNECTION)["runs"]
    except UsageError as error:
        raise RunError(f"the SuperLink went away before its ServerApp started: {error}") from None
    status = str(listed[0]["status"]) if listed else "gone"
    if not listed or status.startswith("finished"):
        why = str(listed[0].get("status-details", "")) if listed else ""
        raise RunError(f"the SuperLink's ServerApp did not start: {status} {why}".rstrip())


@contextmanager
def _stopped_if_it_fails(folder: Path, run: int) -> Iterator[None]:
    """Stop the run on the SuperLink if the block fails; else its ServerApp ends by itself."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(UsageError):
            flwr(folder / "home", "stop", str(run), CONNECTION, seconds=STOP_SECONDS)
        raise
