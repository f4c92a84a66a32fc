"""Hands a SuperLink a small Flower app by `flwr run`, as a person would."""

import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from fedmeta.errors import UsageError
from fedmeta.federation.deployment.options import DeploymentOptions

CONNECTION = "fedmeta"
FLWR_SECONDS = 120.0
"""How long `flwr` may take; it asks the SuperLink once."""

_SOURCE = '''"""Runs the installed fedmeta; this file only names what Flower starts."""

from fedmeta import app

server_app = app.server_app
client_app = app.client_app
'''

QUIET = {"FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_TELEMETRY_ENABLED": "0"}
"""Keeps Flower's programs from asking other machines."""


def write_connection(home: Path, options: DeploymentOptions) -> None:
    """Write a folder that `flwr` takes for its home, with one connection in it."""
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
        run_config: What the app finds in its contexts.
        folder: An empty one, for what `flwr` reads.

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
    """Run `flwr` and return what it answers.

    Args:
        home: Its home folder.
        arguments: Command and arguments; its answer is asked for as JSON.
        seconds: How long it may take.

    Raises:
        UsageError: If it failed, with its reason in one line.
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
    """Return the one line that says why; before it come warnings, and where the request was sent."""
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
