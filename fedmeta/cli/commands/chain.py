"""`fedmeta chain`: start a node, deploy contracts; inspect, claim from, stake in or audit a ledger."""

from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from fedmeta.cli.commands import Experiment, Json, RunPath, Settings
from fedmeta.cli.help import App
from fedmeta.files import to_json

if TYPE_CHECKING:
    from rich.table import Table

    from fedmeta.chain.options import ChainOptions

FoundT = TypeVar("FoundT")

Provider = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="Node to use instead of the run's; required for a run from elsewhere."
    ),
]

app = App(
    help="Start a local chain; deploy, pay from and audit ledgers.",
)


class Kind(StrEnum):
    """Nodes that `chain up` can start."""

    anvil = "anvil"
    ganache = "ganache"


@app.command("up")
def up(  # noqa: PLR0913 (options of a command)
    kind: Annotated[Kind, typer.Argument(metavar="NODE", help="anvil or ganache.")] = Kind.anvil,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port on 127.0.0.1.")] = 8545,
    chain_id: Annotated[int, typer.Option(min=1, help="Chain id.")] = 31337,
    accounts: Annotated[int, typer.Option(min=1, max=1000, help="Number of funded accounts.")] = 10,
    state: Annotated[
        Path | None, typer.Option(help="Folder to keep the chain in; default: discard it at the end.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Start a local Anvil or Ganache node; Ctrl-C stops it.

    Its accounts have public development keys: never use them on a real network.

    Examples:

      fedmeta chain up

      fedmeta chain up ganache --port 7545 --state my-chain
    """
    from tempfile import TemporaryDirectory

    _require_extra()
    from fedmeta.chain import banner, start_node

    with TemporaryDirectory(prefix="fedmeta-chain-") as forgotten:
        node = start_node(kind.value, state or Path(forgotten), port, chain_id, accounts)
        try:
            shown = {"url": node.url, "chain_id": node.chain_id, "accounts": node.accounts}
            typer.echo(to_json(shown) if as_json else banner(node))
            status = node.wait()
        except KeyboardInterrupt:
            typer.echo("stopping", err=True)
            return
        finally:
            node.close()
    typer.echo(f"fedmeta: {kind.value} stopped unexpectedly with status {status}", err=True)
    raise typer.Exit(1)


@app.command("deploy")
def deploy(
    experiment: Experiment,
    settings: Settings = None,
    url: Annotated[
        str | None, typer.Option(help="URL of the node (same as -s chain.provider=URL).")
    ] = None,
    to: Annotated[Path, typer.Option(help="File to write the addresses to.")] = Path("addresses.json"),
    as_json: Json = False,
) -> None:
    """Deploy an experiment's contracts and fund the escrow.

    Writes the addresses to a file. Safe to repeat: contracts that exist are checked and left alone. Then
    run the experiment with the same settings and -s chain.addresses=FILE.

    Example:

      fedmeta chain deploy quickstart --url http://127.0.0.1:8545
    """
    from fedmeta.config import load_config, parse_settings

    _require_extra()
    changes = parse_settings(settings or [])
    if url is not None:
        changes["chain.provider"] = url
    config = load_config(experiment, changes)
    from fedmeta.experiment.ledger import deploy as deploy_contracts

    addresses, fresh = deploy_contracts(config, to)
    if as_json:
        typer.echo(to_json({"fresh": fresh, "file": str(to)} | asdict(addresses)))
        return
    typer.echo("deployed" if fresh else "already deployed; nothing changed")
    for name, address in addresses.contracts().items():
        typer.echo(f"{name:20} {address}")
    typer.echo(f"chain {addresses.chain_id}, campaign {addresses.campaign}\naddresses are in {to}")


@app.command("status")
def status(run_folder: RunPath, provider: Provider = None, as_json: Json = False) -> None:
    """Show the recorded rounds, and who was paid and can claim.

    --json adds each account's balance, stake, slashes and Merkle proof.
    """
    _require_run(run_folder)
    from fedmeta.chain.settle.status import status as look
    from fedmeta.cli.tables import participants_table, status_lines

    found = _with_chain(run_folder, look, provider)
    if as_json:
        typer.echo(to_json(asdict(found) | {"waiting": found.waiting}))
        return
    for line in status_lines(found):
        typer.echo(line)
    _print(participants_table(found.participants))


@app.command("claim")
def claim(
    run_folder: RunPath,
    who: Annotated[
        str | None, typer.Option(help="Client number or account; default: all participants.")
    ] = None,
    provider: Provider = None,
    keystore: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder of encrypted keys (same as chain.keystore)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Claim earned tokens for one participant or for all.

    The tokens go to the participant's account, whoever sends the claim.
    """
    _require_run(run_folder)
    from fedmeta.chain.settle.claims import claim as claim_for
    from fedmeta.experiment.client_totals import UNITS

    claimed = _with_chain(
        run_folder, lambda folder, options: claim_for(folder, options, who), provider, keystore
    )
    if as_json:
        typer.echo(to_json(asdict(claimed)))
        return
    typer.echo(f"{claimed.units / UNITS:,.6g} tokens claimed for {claimed.accounts} accounts")
    if claimed.waiting:
        typer.echo(f"{claimed.waiting / UNITS:,.6g} more can be claimed after their challenge delay")


@app.command("audit")
def audit(run_folder: RunPath, provider: Provider = None, as_json: Json = False) -> None:
    """Check a run's ledger: recompute it and compare with the chain.

    Exit code 1 if they differ; the last line names the first difference. Exit code 2 if nothing differs
    but the node could not be reached, so that the audit is incomplete. The findings are saved in the
    run's chain/audit.json, where `fedmeta report` reads them.
    """
    _require_run(run_folder)
    from fedmeta.chain.audit.findings import first_failure, verdict
    from fedmeta.experiment.saved_audit import audit as check

    findings = _with_chain(run_folder, check, provider)
    failure = first_failure(findings)
    if as_json:
        agrees = verdict(findings)
        typer.echo(to_json({"agrees": agrees, "findings": [asdict(f) for f in findings]}))
    else:
        for finding in findings:
            mark = {True: "ok  ", None: "AWAY"}.get(finding.ok, "DIFF")
            typer.echo(f"{mark} {finding.what}: {finding.detail}")
    if failure:
        typer.echo(f"fedmeta: {failure.what}: {failure.detail}", err=True)
        raise typer.Exit(2 if failure.ok is None else 1)


@app.command("proof")
def proof(
    run_folder: RunPath,
    who: Annotated[str, typer.Argument(metavar="ACCOUNT", help="Client number or account.")],
    as_json: Json = False,
) -> None:
    """Print the arguments an account needs to claim for itself.

    These are the arguments of the ledger's `claim`, read from the run's journal; no node is needed.
    """
    _require_run(run_folder)
    from fedmeta.chain.settle.claims import prove
    from fedmeta.experiment import RunFolder

    found = prove(RunFolder.open(run_folder).path / "chain", who)
    if as_json:
        typer.echo(to_json(asdict(found)))
        return
    for name, value in asdict(found).items():
        shown = f"[{','.join(value)}]" if name == "proof" else value
        typer.echo(f"{name.replace('_', ' '):12} {shown}")


@app.command("abi")
def abi(
    contract: Annotated[str | None, typer.Argument(help="Such as RewardLedger; default: all.")] = None,
) -> None:
    """Print the ABI of one contract, or of all by name, as JSON.

    Example:

      fedmeta chain abi RewardLedger > RewardLedger.json
    """
    _require_extra()
    from fedmeta.chain.contracts import NAMES, load_artifact
    from fedmeta.errors import UsageError
    from fedmeta.options import nearest

    if contract is not None and contract not in NAMES:
        raise UsageError(f"no such contract '{contract}': {nearest(contract, NAMES)}")
    abis = {name: load_artifact(name).abi for name in NAMES}
    typer.echo(to_json(abis if contract is None else abis[contract]))


@app.command("events")
def events(run_folder: RunPath, provider: Provider = None, as_json: Json = False) -> None:
    """List the decoded events of a run's contracts."""
    _require_run(run_folder)
    from fedmeta.chain.settle.status import events as look

    found = _with_chain(run_folder, look, provider)
    if as_json:
        typer.echo(to_json([asdict(event) for event in found]))
        return
    for event in found:
        values = ", ".join(f"{name} {value}" for name, value in event.arguments.items())
        typer.echo(f"block {event.block}: {event.contract}.{event.event}: {values}")


@app.command("stake")
def stake(  # noqa: PLR0913 (options of a command)
    step: Annotated[
        Literal["join", "leave", "withdraw"],
        typer.Argument(metavar="STEP", help="join, leave or withdraw."),
    ],
    run_folder: RunPath,
    who: Annotated[
        str, typer.Option(help="Client number or account; default: the account of --key.")
    ] = "",
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Encrypted key that signs and pays (password: FEDMETA_KEYSTORE_PASSWORD); default: the "
            "sponsor's.",
        ),
    ] = None,
    provider: Provider = None,
    as_json: Json = False,
) -> None:
    """Stake tokens, start to leave, or withdraw the stake.

    A stake can be withdrawn once the unbonding delay after `leave` is over.

    Examples:

      fedmeta chain stake join runs/mine --key account.json

      fedmeta chain stake leave runs/mine --who 7
    """
    _require_run(run_folder)
    from fedmeta.chain.settle.staking import stake as change
    from fedmeta.errors import UsageError
    from fedmeta.experiment.node_keys import open_account

    if not who and key is None:
        raise UsageError("chain stake: name the account, with --who or --key FILE")
    signer = open_account(key) if key else None
    account = _with_chain(
        run_folder, lambda folder, chain: change(folder, chain, step, who, signer), provider, None
    )
    done = {"join": "has a stake", "leave": "has left", "withdraw": "has its stake back"}[step]
    typer.echo(to_json({"account": account, "step": step}) if as_json else f"{account} {done}")


def _require_extra() -> None:
    from fedmeta.chain import require_extra

    require_extra()


def _require_run(run_folder: Path) -> None:
    """Refuse a folder that is not a run before importing web3, which takes a second."""
    from fedmeta.experiment.folder import RunFolder

    _require_extra()
    RunFolder.open(run_folder)


def _with_chain(
    path: Path,
    look: "Callable[[Path, ChainOptions], FoundT]",
    provider: str | None,
    keystore: str | None = "",
) -> FoundT:
    """Call `look` with the chain folder and options of a run; see `chain_options` for the others.

    Raises:
        UsageError: If there is no such run, and as `chain_options`.
    """
    from fedmeta.config.trust import chain_options
    from fedmeta.experiment.folder import RunFolder

    folder = RunFolder.open(path)
    return look(folder.path / "chain", chain_options(path, folder.config, provider, keystore))


def _print(table: "Table") -> None:
    from fedmeta.cli.screen import SafeConsole

    SafeConsole().print(table)
