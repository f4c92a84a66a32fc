"""`fedmeta federation`: Flower's deployment engine on one machine."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fedmeta.cli.run import Json
from fedmeta.errors import UsageError
from fedmeta.files import to_json

app = typer.Typer(
    no_args_is_help=True,
    help="Try Flower's deployment engine out on this machine; docs/deploy.md is about several.",
)


@app.callback()
def _group() -> None:
    """Keep `up` a subcommand while it is the only one."""


@app.command("up")
def up(  # noqa: PLR0913 (one parameter an option)
    nodes: Annotated[int, typer.Option(min=1, help="How many SuperNodes.")],
    tls: Annotated[
        bool, typer.Option("--tls", help="Make certificates and node keys; only these nodes may join.")
    ] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the SuperLink.")] = 8000,
    folder: Annotated[Path, typer.Option("--dir", help="Where logs, certificates and keys go.")] = Path(
        ".federation"
    ),
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="I=DIR", help="Data folder of node I, instead of FEDMETA_DATA."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Start a SuperLink and SuperNodes on this machine; Ctrl-C ends them all.

    Node I holds partition I: a run needs as many clients as there are nodes.

    Examples:

      fedmeta federation up --nodes 4

      fedmeta federation up --nodes 4 --tls --data 0=/srv/a --data 1=/srv/b
    """
    from fedmeta.federation.deployment.local import Layout, run_local

    def tell(line: str) -> None:
        if not as_json:
            typer.echo(line)

    layout = Layout(folder, nodes, port, tls, _folders(data or [], nodes))
    with run_local(layout, tell) as federation:
        chosen = [f"deployment.address={federation.options.address}"]
        if federation.options.certificate:
            chosen.append(f"deployment.certificate={federation.options.certificate}")
        if as_json:
            pids = [process.pid for process in federation.nodes]
            found = {**federation.options.model_dump(), "pid": federation.superlink.pid, "nodes": pids}
            typer.echo(to_json({**found, "home": str(federation.home.resolve())}))
        settings = " ".join(f"-s {shlex.quote(one)}" for one in chosen)
        tell(f"logs are in {folder}; run on it from another terminal, Ctrl-C here ends it:")
        tell(
            f"  fedmeta run quickstart -s engine=deployment {settings} "
            f"-s clients={nodes} -s test_clients=1 -s cohort={max(1, nodes - 1)} -s rounds=5"
        )
        federation.watch(tell)


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
