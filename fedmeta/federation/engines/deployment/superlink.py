"""Submits the Flower app to a SuperLink, and runs rounds on its SuperNodes."""

import contextlib
import json
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w

from fedmeta.errors import RunError, UsageError
from fedmeta.federation.accounts import Seats
from fedmeta.federation.engines.deployment import DeploymentOptions, require_superlink
from fedmeta.federation.engines.deployment.grid_sharing import GridListener
from fedmeta.federation.engines.node_directory import NodeDirectory
from fedmeta.federation.flower import as_server

CONFIG_KEY, LINE_KEY, VERSION_KEY, RUN_KEY = "config", "line", "fedmeta", "signed-run"
"""Keys of the run config: the clients' config, the socket at which the server waits, its version, and
the hexadecimal run id in nodes' signatures."""
STOP_SECONDS = 15.0
"""How long to try to stop a failed run; a SuperLink that cannot be reached has stopped it already."""
START_SECONDS = 180.0
"""How long the SuperLink may take to start its ServerApp."""


@contextmanager
def open_deployment(
    options: DeploymentOptions, config: str, clients: int, seats: Seats | None = None, run_id: str = ""
) -> Iterator[NodeDirectory]:
    """Open a grid of the SuperNodes that are connected to a SuperLink.

    Args:
        options: The SuperLink's address, on this machine.
        config: The clients' config as text; they read it from their context's run config.
        clients: Number of partitions; a node's own is in its node config.
        seats: Decides which node may hold which partition; None: any node any partition.
        run_id: Run id in nodes' signatures; empty: they do not sign.

    Raises:
        UsageError: If the SuperLink cannot be reached or refuses the app.
        RunError: If it did not start the app.
    """
    require_superlink(options)
    # A socket's path may have at most 107 bytes.
    short = "/tmp" if os.path.isdir("/tmp") else None
    with tempfile.TemporaryDirectory(prefix="fm-", dir=short, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with GridListener(folder) as listener:
            told = {CONFIG_KEY: config, LINE_KEY: listener.address, VERSION_KEY: version("fedmeta")}
            told[RUN_KEY] = run_id
            run = submit(options, told, folder)
            with _stopped_if_it_fails(folder, run):
                grid = listener.accept(START_SECONDS, partial(_require_alive, folder, run))
                with closing(grid), as_server(grid.run.run_id):
                    yield NodeDirectory(grid, clients, seats=seats)


def _require_alive(folder: Path, run: int) -> None:
    """Check that the SuperLink has not given up the run before its ServerApp connects.

    Raises:
        RunError: If it has, with its reason.
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
    """Stop the run on the SuperLink if the block fails; otherwise its ServerApp ends by itself."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(UsageError):
            flwr(folder / "home", "stop", str(run), CONNECTION, seconds=STOP_SECONDS)
        raise


CONNECTION = "fedmeta"
FLWR_SECONDS = 120.0
"""How long a `flwr` command, one request to the SuperLink, may take."""

_SOURCE = '''"""Runs the installed fedmeta; this file only names what Flower starts."""

from fedmeta import app

server_app = app.server_app
client_app = app.client_app
'''

QUIET = {"FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_TELEMETRY_ENABLED": "0"}
"""Keeps Flower's programs from asking other machines."""


def write_connection(home: Path, options: DeploymentOptions) -> None:
    """Write a home folder for `flwr`, with one connection in it."""
    home.mkdir(parents=True, exist_ok=True)
    secured: dict[str, Any] = {"insecure": True}
    if options.certificate:
        secured = {"root-certificates": str(Path(options.certificate).resolve())}
    connection = {"address": options.address, **secured}
    table = {"superlink": {"default": CONNECTION, CONNECTION: connection}}
    (home / "config.toml").write_text(tomli_w.dumps(table))


def submit(options: DeploymentOptions, run_config: Mapping[str, str], folder: Path) -> int:
    """Start a run; return its id.

    Args:
        options: Where the SuperLink is.
        run_config: The run config in the app's contexts.
        folder: An empty folder for the app and the connection.

    Raises:
        UsageError: If the SuperLink refused it or cannot be reached.
    """
    app = folder / "app"
    app.mkdir()
    (app / "app.py").write_text(_SOURCE)
    (app / "pyproject.toml").write_text(tomli_w.dumps(_project(run_config)))
    write_connection(folder / "home", options)
    answer = flwr(folder / "home", "run", str(app), CONNECTION)
    return int(answer["run-id"])


def _project(run_config: Mapping[str, str]) -> dict[str, Any]:
    components = {"serverapp": "app:server_app", "clientapp": "app:client_app"}
    return {
        "project": {
            "name": "fedmeta-app",
            "version": "1.0.0",
            "description": "Federated meta-learning by the fedmeta that is installed on each machine",
            "license": "Apache-2.0",
            "dependencies": [],
        },
        "tool": {
            "flwr": {
                "app": {"publisher": "fedmeta", "components": components, "config": dict(run_config)}
            }
        },
    }


def flwr(home: Path, *arguments: str, seconds: float = FLWR_SECONDS) -> dict[str, Any]:
    """Run `flwr` and return its JSON output.

    Args:
        home: Its home folder.
        arguments: Command and arguments.
        seconds: How long it may take.

    Raises:
        UsageError: If it failed, with a one-line reason.
    """
    command = [program("flwr"), *arguments, "--format", "json"]
    environment = {**os.environ, **QUIET, "FLWR_HOME": str(home)}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        answer: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    except subprocess.TimeoutExpired:
        raise UsageError(f"`flwr {arguments[0]}` did not end within {seconds:g} s") from None
    except ValueError:
        answer = {"error-message": done.stderr or done.stdout}
    if not answer.get("success"):
        raise UsageError(f"`flwr {arguments[0]}` failed: {_reason(str(answer.get('error-message')))}")
    return answer


def _reason(message: str) -> str:
    """Return the line with the reason, which follows warnings and the request's address."""
    lines = [" ".join(line.split()) for line in message.splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith("For more information")]
    return said[-1] if said else "no reason given"


def program(name: str) -> str:
    """Return the path of one of Flower's programs.

    Raises:
        UsageError: If it is not installed.
    """
    beside = Path(sysconfig.get_path("scripts")) / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise UsageError(f"`{name}`, which comes with Flower, is not on PATH")
    return found
