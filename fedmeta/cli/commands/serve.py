"""`fedmeta serve`."""

import ipaddress
from pathlib import Path
from typing import Annotated

import typer

from fedmeta.cli.commands import Json
from fedmeta.files import to_json


def serve(
    runs: Annotated[Path, typer.Argument(metavar="RUNS", help="Folder of runs.")] = Path("runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any free one.")] = 8642,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    as_json: Json = False,
) -> None:
    """Show a folder of runs in the browser, live.

    Shows curves, clients, ledgers and comparisons, and changes nothing. Only this machine can open the
    page, unless you set --host. Ctrl-C stops it.

    Examples:

      fedmeta serve

      fedmeta serve runs --port 9000
    """
    from fedmeta.report.read import require_runs

    require_runs(runs)
    from fedmeta.serve.server import serve as serve_runs

    def ready(address: str) -> None:
        if as_json:
            typer.echo(to_json({"address": address, "runs": str(runs)}))
            return
        typer.echo(f"{runs} is shown at {address} (Ctrl-C stops it)")

    if not _is_loopback(host):
        typer.echo(f"fedmeta: everyone who can reach {host} can read these runs", err=True)
    serve_runs(runs, host, port, ready)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
