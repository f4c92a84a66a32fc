"""`fedmeta federation`: Flower's deployment engine, on one machine or several."""

import os
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedmeta.cli.commands import Json
from fedmeta.cli.help import App
from fedmeta.errors import UsageError
from fedmeta.files import to_json

if TYPE_CHECKING:
    from fedmeta.federation import DeploymentOptions

Device = Literal["auto", "cpu", "cuda"]

app = App(
    help="Run on SuperNodes, here or on several machines. See docs/deploy.md.",
)


@app.command("up")
def up(  # noqa: PLR0913 (one parameter an option)
    nodes: Annotated[int, typer.Option(min=1, help="Number of SuperNodes.")],
    tls: Annotated[
        bool,
        typer.Option(
            "--tls", help="Encrypt: create certificates and node keys, and admit only these nodes."
        ),
    ] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the SuperLink.")] = 8000,
    folder: Annotated[
        Path, typer.Option("--dir", help="Folder for logs, certificates and keys.")
    ] = Path(".federation"),
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="I=DIR", help="Data folder of node I; default: FEDMETA_DATA. May be repeated."
        ),
    ] = None,
    allow_code: Annotated[
        bool,
        typer.Option("--allow-code", help="Let nodes import code that a config names by a dotted path."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Start a SuperLink and SuperNodes here; Ctrl-C stops them.

    Node I holds partition I, so a run needs as many clients as there are nodes.

    Examples:

      fedmeta federation up --nodes 4

      fedmeta federation up --nodes 4 --tls --data 0=/srv/a --data 1=/srv/b
    """
    from fedmeta.chain.errors import has_extra
    from fedmeta.federation.engines.deployment.local import Layout, run_local

    enrol = None
    if has_extra():
        from fedmeta.experiment.roster import LocalNodes

        enrol = LocalNodes(folder)

    def tell(line: str) -> None:
        if not as_json:
            typer.echo(line)

    layout = Layout(folder, nodes, port, tls, _folders(data or [], nodes), enrol, allow_code)
    with run_local(layout, tell) as federation:
        if as_json:
            pids = [process.pid for process in federation.nodes]
            found = {**federation.options.model_dump(), "pid": federation.superlink.pid, "nodes": pids}
            typer.echo(to_json({**found, "home": str(federation.home.resolve())}))
        tell(f"logs are in {folder}; start a run from another terminal (Ctrl-C here stops the nodes):")
        tell(f"  {_run_on(federation.options, nodes)}")
        if federation.options.roster:
            tell("add -s chain.provider=anvil to pay the nodes' accounts")
        federation.watch(tell)


def _run_on(options: "DeploymentOptions", nodes: int) -> str:
    """Return the command that runs the quickstart on a federation."""
    chosen = options.model_dump(include={"address", "certificate", "roster"}, exclude_none=True)
    settings = " ".join(
        f"-s {shlex.quote(f'deployment.{key}={value}')}" for key, value in chosen.items()
    )
    return (
        f"fedmeta run quickstart -s engine=deployment {settings} "
        f"-s clients={nodes} -s test_clients=1 -s cohort={max(1, nodes - 1)} -s rounds=5"
    )


@app.command("join")
def join_(
    federation: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the federation, from its server's owner.")
    ],
    partition: Annotated[
        int, typer.Option(min=0, help="Number of the data partition that this node holds.")
    ],
    folder: Annotated[Path, typer.Option("--dir", help="Folder for the node's keys.")] = Path("node"),
    as_json: Json = False,
) -> None:
    """Create a node's keys and the registration to send.

    Send the registration to the server's owner; the private keys stay in the folder. If
    FEDMETA_KEYSTORE_PASSWORD is set, it encrypts the account's key and must be set when the node runs.

    Examples:

      fedmeta federation join --federation our-study --partition 2
    """
    from fedmeta.experiment.node_keys import NodeFiles, join

    files = NodeFiles(folder)
    made = join(files, federation, partition)
    if as_json:
        typer.echo(to_json({**made.model_dump(), "registration": str(files.registration)}))
        return
    typer.echo(
        f"account {made.account} receives the rewards; its key is in {files.account}: keep a copy"
    )
    typer.echo(f"send {files.registration} to the server's owner; it contains no secrets")


@app.command("admit")
def admit_(  # noqa: PLR0913 (one parameter an option)
    registrations: Annotated[
        list[Path], typer.Argument(help="Registration files from the nodes' owners.")
    ],
    roster: Annotated[
        Path, typer.Option(help="Roster file to write; runs use it as deployment.roster.")
    ] = Path("roster.json"),
    federation: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the federation; required for a new roster."),
    ] = None,
    address: Annotated[str, typer.Option(help="Address of the SuperLink.")] = "127.0.0.1:8000",
    certificate: Annotated[
        str | None,
        typer.Option(
            help="CA certificate of the SuperLink; with it, node keys are registered there too."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check nodes' registrations and admit each to its partition.

    Repeat it when the SuperLink was restarted without --database: it has forgotten the keys.

    Examples:

      fedmeta federation admit node-*.json --federation our-study --certificate ca.crt
    """
    from fedmeta.experiment.roster import admit, registering
    from fedmeta.federation import DeploymentOptions
    from fedmeta.options import parse_options

    link = parse_options(
        DeploymentOptions, {"address": address, "certificate": certificate}, "deployment"
    )
    with registering(link) if certificate else nullcontext() as register:
        seats = admit(roster, registrations, federation, register)
    if as_json:
        typer.echo(to_json({"roster": str(roster), "admitted": [seat.model_dump() for seat in seats]}))
        return
    for seat in seats:
        known = (
            f"node {seat.node}"
            if seat.node
            else "its key is not registered with a SuperLink (use --certificate)"
        )
        typer.echo(f"partition {seat.registration.partition}: {seat.registration.account}, {known}")
    typer.echo(f"use it in a run with -s deployment.roster={shlex.quote(str(roster))}")


@app.command("node")
def node_(  # noqa: PLR0913 (one parameter an option)
    folder: Annotated[Path, typer.Argument(help="Folder with the node's keys, from `join`.")],
    superlink: Annotated[str, typer.Option(metavar="HOST:PORT", help="Address of the SuperLink.")],
    certificate: Annotated[str | None, typer.Option(help="CA certificate of the SuperLink.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Connect without TLS, even over a network.")
    ] = False,
    data: Annotated[Path | None, typer.Option(help="Data folder; default: FEDMETA_DATA.")] = None,
    allow_code: Annotated[
        bool,
        typer.Option("--allow-code", help="Import code that the server names by a dotted path."),
    ] = False,
    max_seconds: Annotated[
        float | None, typer.Option(min=1.0, help="Time limit for one message; default: an hour.")
    ] = None,
    device: Annotated[
        Device | None, typer.Option(help="Device to compute on; default: the one in the run's config.")
    ] = None,
) -> None:
    """Run a SuperNode with keys made by `join`; Ctrl-C stops it.

    It runs the fedmeta installed here, never the app that the SuperLink sends.

    Examples:

      fedmeta federation node node --superlink link.example.org:8000 --certificate ca.crt
    """
    from fedmeta.experiment.node_keys import NodeFiles, open_account, read_registration
    from fedmeta.federation.engines.deployment import require_encrypted
    from fedmeta.federation.engines.deployment.supernode import SuperNode, free_port, pinned

    try:
        if not insecure:
            require_encrypted(superlink, certificate, "--insecure")
    except ValueError as error:
        raise UsageError(f"--superlink: {error}") from None
    files = NodeFiles(folder)
    registration = read_registration(files.registration)
    open_account(files.account)
    if data is not None and not data.is_dir():
        raise UsageError(f"--data: there is no folder '{data}'")
    if device is not None:
        from fedmeta.learning.device import choose_device, use_device

        use_device(choose_device(device))
    node = SuperNode(
        superlink=superlink,
        partition=registration.partition,
        port=free_port(),
        certificate=certificate,
        key=files.key.private if certificate else None,
        account=files.account,
        data=data,
        allow_code=allow_code,
        max_seconds=max_seconds,
        memory=folder / "memory",
        device=device,
    )
    command = node.command()
    os.execve(command[0], command, dict(pinned(folder)))


def _folders(pairs: list[str], nodes: int) -> dict[int, Path]:
    folders = {}
    for pair in pairs:
        node, found, folder = pair.partition("=")
        if not (found and node.isdecimal() and int(node) < nodes):
            raise UsageError(f"--data '{pair}' is not I=DIR with I from 0 to {nodes - 1}")
        if not Path(folder).is_dir():
            raise UsageError(f"--data '{pair}': there is no folder '{folder}'")
        folders[int(node)] = Path(folder)
    return folders
