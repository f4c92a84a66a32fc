"""The Flower app: what `flwr run .` starts, and what ``engine = "deployment"`` hands to a SuperLink.

Both apps read a run config. That of ``engine = "deployment"`` holds a resolved config, and the line on
which the process that runs the rounds waits for its grid. That of `flwr run .` names an experiment and
settings, as `fedmeta run` does; then the ServerApp runs the rounds itself.
"""

import os
import shlex
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedmeta.experiment import Config, Listener, RunFolder, parse_settings, run
from fedmeta.experiment import plan as planning
from fedmeta.experiment.config import from_toml, load_config, to_toml
from fedmeta.experiment.engines import clients_side
from fedmeta.federation.deployment.lending import lend
from fedmeta.federation.deployment.session import CONFIG_KEY, LINE_KEY
from fedmeta.federation.remote.app import ClientSide, build_remote_app
from fedmeta.learning import keep_freed_memory

if TYPE_CHECKING:
    from fedmeta.federation import RoundRecord

EXPERIMENT, OUT, SET = "experiment", "out", "set"
"""Keys of the run config beside those of a config: `fedmeta run EXPERIMENT --out OUT -s SET`."""
DATA = "data"
"""Key of a node's config: the folder that holds its data, as ``FEDMETA_DATA`` names one."""

RunConfig = Mapping[str, Any]

server_app = ServerApp()


@server_app.main()
def _serve(grid: Grid, context: Context) -> None:
    given = context.run_config
    if line := given.get(LINE_KEY):
        lend(grid, str(line))
        return
    out = str(given.get(OUT) or "") or None
    run(str(given[EXPERIMENT]), settings_of(given), out=out, listener=_progress(), grid=grid)


def settings_of(given: RunConfig) -> dict[str, Any]:
    """Return the settings that a run config makes to its experiment; what is empty is not set.

    Raises:
        ConfigError: If an entry of ``set`` is not ``key=value``.
    """
    own = {EXPERIMENT, OUT, SET, CONFIG_KEY, LINE_KEY}
    settings = {key: value for key, value in given.items() if key not in own and value != ""}
    settings |= parse_settings(shlex.split(str(given.get(SET) or "")))
    return settings | {"engine": "deployment"}


def config_of(given: RunConfig) -> Config:
    """Return the resolved config that a run config stands for, the same in every process.

    Raises:
        ConfigError: If it is wrong.
    """
    if text := given.get(CONFIG_KEY):
        return from_toml(str(text))
    return planning.resolve(load_config(str(given[EXPERIMENT]), settings_of(given)))


def _side(context: Context) -> ClientSide:
    data = context.node_config.get(DATA)
    if data is not None:
        os.environ["FEDMETA_DATA"] = str(data)
    return _built(to_toml(config_of(context.run_config)))


@lru_cache(maxsize=1)
def _built(config: str) -> ClientSide:
    keep_freed_memory()
    return clients_side(from_toml(config))()


def _progress() -> Listener:
    """Tell of a run in the log that `flwr log` shows."""

    def started(folder: RunFolder, config: Config, _: int) -> None:
        print(f"{config.algorithm} on {config.task}: {config.rounds} rounds -> {folder.path.resolve()}")

    def finished(record: "RoundRecord") -> None:
        print(f"round {record.round}: {record.admitted} admitted, loss {record.loss:.4f}")

    return Listener(started=started, round=finished, note=print)


client_app = build_remote_app(_side)
