"""The Flower app, started by `flwr run .`, or sent to a SuperLink by ``engine = "deployment"``.

Both its ServerApp and its ClientApp read a run config. With ``engine = "deployment"`` it holds a
resolved config, and the address at which the process that runs the rounds waits for its grid. With
`flwr run .` it names an experiment and settings, as for `fedmeta run`; then the ServerApp itself runs
the rounds.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedmeta.config import from_toml, to_toml
from fedmeta.errors import ConfigError, UsageError
from fedmeta.experiment import Config, Listener, RunFolder, experiment_names, planning, run
from fedmeta.experiment.open_federation import clients_side
from fedmeta.experiment.swap import load
from fedmeta.federation.accounts import Signing
from fedmeta.federation.engines.client_app import ClientSide, build_remote_app
from fedmeta.federation.engines.deployment.grid_sharing import share_grid
from fedmeta.federation.engines.deployment.superlink import CONFIG_KEY, LINE_KEY, RUN_KEY, VERSION_KEY
from fedmeta.federation.engines.timeouts import TimeoutGrid
from fedmeta.federation.flower import is_simulation
from fedmeta.files import parse_toml
from fedmeta.learning import keep_freed_memory
from fedmeta.learning.device import choose_device
from fedmeta.options import nearest, parse_options
from fedmeta.parts import FAMILIES
from fedmeta.registry import own_parts_only

if TYPE_CHECKING:
    from fedmeta.federation import RoundRecord

EXPERIMENT, OUT, SET = "experiment", "out", "set"
"""Keys of the run config besides those of a config: `fedmeta run EXPERIMENT --out OUT -s SET`."""
DATA, ACCOUNT, ALLOW_CODE, MAX_SECONDS = "data", "account", "allow-code", "max-seconds"
MEMORY, DEVICE = "memory", "device"
"""Keys of a node's config, set by its owner: the data folder, like ``FEDMETA_DATA``; the encrypted key
for signing; whether to run code named by a server; the time limit per message; the folder for its memory
between rounds; and its device, which overrides the run's config."""
WORK_SECONDS = 3600.0
"""Default time limit per message."""
_NO_CODE = (
    "this node runs no code that a server names, unless its owner installs it and sets allow-code=true "
    "in the node's config"
)

RunConfig = Mapping[str, Any]

server_app = ServerApp()


@server_app.main()
def _serve(grid: Grid, context: Context) -> None:
    given = context.run_config
    if line := given.get(LINE_KEY):
        share_grid(grid, str(line))
        return
    out = str(given.get(OUT) or "") or None
    name = str(given[EXPERIMENT])
    # Refuse early what clients would refuse.
    require_nodes(grid, config_of(given).clients)
    run(name, settings_of(given), out=out, listener=_progress(), grid=TimeoutGrid(grid))


def require_nodes(grid: Grid, clients: int) -> None:
    """Check that Flower's simulation has a node for each client; it never gets more nodes.

    Raises:
        UsageError: If it has fewer nodes.
    """
    nodes = len(list(grid.get_node_ids())) if is_simulation(grid) else clients
    if nodes < clients:
        raise UsageError(
            f"Flower simulates {nodes} SuperNodes, and the experiment has {clients} clients: "
            f'flwr run . --federation-config "num-supernodes={clients}"'
        )


def settings_of(given: RunConfig) -> dict[str, Any]:
    """Return a run config's settings of its experiment; empty values are left out.

    Raises:
        ConfigError: If ``set`` is not the content of a TOML inline table.
    """
    own = {EXPERIMENT, OUT, SET, CONFIG_KEY, LINE_KEY, VERSION_KEY, RUN_KEY}
    settings = {key: value for key, value in given.items() if key not in own and value != ""}
    try:
        more = parse_toml(f"{SET} = {{{given.get(SET) or ''}}}")[SET]
    except ValueError as error:
        raise ConfigError(
            f"set = {given.get(SET)!r} is not TOML ({error}): write 'data.shots=5, learner.inner_lr=0.1'"
        ) from None
    return settings | dict(_flat(more)) | {"engine": "deployment"}


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def config_of(given: RunConfig) -> Config:
    """Return the resolved config of a run config, the same in every process.

    Raises:
        ConfigError: If it is invalid, or of another version of fedmeta.
    """
    theirs = given.get(VERSION_KEY, "")
    # Where only the app was sent, as in Flower's simulation, no fedmeta with a version is installed.
    if theirs and theirs != (own := version("fedmeta")):
        raise ConfigError(f"this node has fedmeta {own}, and the server {theirs}")
    if text := given.get(CONFIG_KEY):
        return from_toml(str(text))
    name = str(given[EXPERIMENT])
    if name not in experiment_names():
        # A path could be another file on each machine.
        raise ConfigError(f"no experiment '{name}' in simulations/: {nearest(name, experiment_names())}")
    return planning.resolve(load(name, settings_of(given))[0])


def _side(context: Context) -> ClientSide:
    data = context.node_config.get(DATA)
    if data is not None:
        os.environ["FEDMETA_DATA"] = str(data)
    allowed = context.node_config.get(ALLOW_CODE) is True
    with nullcontext() if allowed else own_parts_only(_NO_CODE):
        config = _on_device(config_of(context.run_config), context)
        if not allowed:
            _refuse_named_files(config)
        side = _built(to_toml(config), os.environ.get("FEDMETA_DATA"))
    return replace(side, signatures=_signer(context))


def _refuse_named_files(config: Config) -> None:
    """Refuse a family that reads files which the config names: a server could name any file.

    Raises:
        ConfigError: If the task is such a family.
    """
    options = FAMILIES.options(config.task)
    if options and "path" in options.model_fields:
        raise ConfigError(
            f"task '{config.task}': this node reads no files that a server names, unless its owner sets "
            "allow-code=true in the node's config"
        )


def _on_device(config: Config, context: Context) -> Config:
    """Return the config with the device chosen by the node's owner; `auto` is resolved on the node."""
    if (device := context.node_config.get(DEVICE)) is None:
        return config
    own = parse_options(Config, {**config.model_dump(), "workers": "auto", DEVICE: device})
    return own.model_copy(update={DEVICE: choose_device(own.device)})


def _limit(context: Context) -> float:
    seconds = context.node_config.get(MAX_SECONDS, WORK_SECONDS)
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or seconds <= 0:
        raise ConfigError(f"{MAX_SECONDS} = {seconds!r} in the node's config: must be a number above 0")
    return float(seconds)


def _memory(context: Context) -> Path | None:
    folder = context.node_config.get(MEMORY)
    return Path(str(folder)) if folder else None


def _signer(context: Context) -> Signing | None:
    """Return this node's signer; None if the run is not signed, or the node has no account."""
    run, account = context.run_config.get(RUN_KEY), context.node_config.get(ACCOUNT)
    if not run or account is None:
        return None
    from fedmeta.experiment.node_keys import NodeSigner, open_account

    try:
        id_ = bytes.fromhex(str(run))
    except ValueError:
        id_ = b""
    if len(id_) != 32:
        raise ConfigError(f"{RUN_KEY}: an id to sign under has 32 bytes, in hexadecimal")
    return NodeSigner(open_account(Path(str(account))), id_)


@lru_cache(maxsize=1)
def _built(config: str, _: str | None) -> ClientSide:
    """Build the clients' side of a config, with the data of a folder."""
    keep_freed_memory()
    return clients_side(from_toml(config))()


def _progress() -> Listener:
    """Return a listener that prints a run's progress, for `flwr log`."""

    def started(folder: RunFolder, config: Config, _: int) -> None:
        print(f"{config.algorithm} on {config.task}: {config.rounds} rounds -> {folder.path.resolve()}")

    def finished(record: "RoundRecord") -> None:
        print(f"round {record.round}: {record.admitted} admitted, loss {record.loss:.4f}")

    return Listener(started=started, round=finished, note=print)


client_app = build_remote_app(_side, _limit, _memory)
