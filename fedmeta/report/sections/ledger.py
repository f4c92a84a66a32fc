"""The ledger: recorded rounds, stakes, transactions and the last audit."""

import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from fedmeta.chain import require_extra
from fedmeta.config import Config
from fedmeta.errors import FedmetaError
from fedmeta.experiment.client_totals import UNITS
from fedmeta.experiment.saved_audit import AUDIT, VERSION
from fedmeta.files import one_line, open_file, read_json, reason
from fedmeta.report.page import Section
from fedmeta.report.read import RunFiles, number
from fedmeta.report.sections import ReportSection
from fedmeta.report.sections.payment import kinds_of
from fedmeta.report.tables import Cell, Table

if TYPE_CHECKING:
    from fedmeta.chain.settle.journal_rows import Campaign


_MOST_JOURNAL = 1 << 30
_AGREES = {True: "agrees", None: "not checked"}


@dataclass(frozen=True)
class JournalFacts:
    """What the journal holds.

    Attributes:
        campaign: Its campaign; None if it cannot be read.
        frozen: Last frozen round.
        recorded: Last round that is recorded on the chain.
        actions: What each mined transaction was for.
        staked: Accounts that were to put down a stake, in the order of the clients.
        problem: Why it cannot be read; None if it could.
    """

    campaign: "Campaign | None" = None
    frozen: int = 0
    recorded: int = 0
    actions: Sequence[str] = field(default_factory=list)
    staked: Sequence[str] = field(default_factory=list)
    problem: str | None = None


def read_journal(folder: Path) -> JournalFacts:
    """Read a run's journal without leaving a trace, also while a run writes to it.

    Args:
        folder: The run's ``chain`` folder.
    """
    path = folder / "journal.sqlite"
    try:
        require_extra()
        if path.exists():
            open_file(path, _MOST_JOURNAL).close()
        if not path.is_file() or path.with_name(f"{path.name}-wal").exists():
            return _facts(path)
        # SQLite leaves two files beside one that it only reads; a copy keeps the run as it is.
        with TemporaryDirectory(prefix="fedmeta-report-") as aside:
            return _facts(Path(shutil.copy(path, aside)))
    except FedmetaError as error:
        return JournalFacts(problem=one_line(error).replace(f"{path}: ", ""))
    except OSError as error:
        return JournalFacts(problem=f"{path.name}: {reason(error)}")


def _facts(path: Path) -> JournalFacts:
    from fedmeta.chain.settle.journal import JournalView

    view = JournalView(path)
    try:
        actions = [one.action for one in view.landed()]
        staked = list(view.stakes())
        return JournalFacts(view.campaign, view.frozen, view.recorded, actions, staked)
    finally:
        view.close()


def read_audit(folder: Path) -> dict[str, Any] | None:
    """Return what the last audit left in a run's ``chain`` folder; None if there was none."""
    try:
        said = read_json(folder / AUDIT)
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) and said.get("version") == VERSION else None


class Ledger(ReportSection):
    """The run's ledger."""

    order = 100

    @staticmethod
    @override
    def of_run(run: RunFiles) -> Section | None:
        if run.config is None or not run.config.chain.enabled:
            return None
        journal, audit = read_journal(run.path / "chain"), read_audit(run.path / "chain")
        tables = [_stakes(run.config, journal), _gas(journal, audit), _findings(audit)]
        return Section(
            key="ledger",
            title="Ledger",
            text=_audit_line(run, audit),
            warning=_warning(run, journal, audit),
            facts=_about(run, journal),
            tables=[table for table in tables if table is not None],
        )


def _unseen(audit: dict[str, Any]) -> bool:
    """Tell whether the audit found no difference but could not check everything."""
    return "agrees" in audit and audit["agrees"] is None


def _audit_line(run: RunFiles, audit: dict[str, Any] | None) -> str:
    if audit is None:
        return f"Not audited yet: `fedmeta chain audit {run.path}` checks it and reports the gas used."
    verdict = (
        "the run's files and the chain agree"
        if audit.get("agrees") is True
        else "the chain could not be reached"
        if _unseen(audit)
        else "they do not agree"
    )
    return f"Audited on {audit.get('at')}: {verdict}."


def _warning(run: RunFiles, journal: JournalFacts, audit: dict[str, Any] | None) -> str:
    settled = run.info.get("chain")
    lines = [journal.problem or ""]
    if isinstance(settled, dict):
        lines.append(str(settled.get("problem") or ""))
    if audit is not None and audit.get("agrees") is not True and not _unseen(audit):
        lines.append("The audit found a difference; the first one is marked in the table.")
    return " ".join(line for line in lines if line)


def _about(run: RunFiles, journal: JournalFacts) -> list[tuple[str, str]]:
    settled = run.info.get("chain")
    settled = settled if isinstance(settled, dict) else {}
    # During a run, the chain may be ahead of the logs that were read.
    last = run.metrics[-1]["round"] if run.metrics else 0
    last = last if run.status == "running" else journal.frozen
    done = f"{min(journal.recorded, last):,} of {min(journal.frozen, last):,} frozen"
    facts = [("Rounds recorded on the chain", done)]
    for key, name in (("awarded", "Tokens awarded"), ("waiting", "Tokens in their waiting period")):
        units = number(settled, key)
        if units or (key == "awarded" and units is not None):
            facts.append((name, f"{units / UNITS:,.6g}"))
    campaign = journal.campaign
    if campaign is not None:
        facts.append(("Pot of a round", f"{campaign.round_cap / UNITS:,.6g} tokens"))
        facts.append(("Campaign", f"0x{campaign.campaign.hex()}"))
        addresses = (
            ("Ledger", campaign.ledger),
            ("Token", campaign.token),
            ("Registry", campaign.registry),
        )
        facts += [(name, address) for name, address in addresses if address]
        if campaign.chain_id is not None:
            facts.append(("Chain id", str(campaign.chain_id)))
    return facts


def _stakes(config: Config, journal: JournalFacts) -> Table | None:
    """Return what each client has at stake, and how much of it was taken, in whole tokens."""
    if not journal.staked:
        return None
    staking, kinds = config.chain.staking, kinds_of(config)
    joined = _accounts(journal, "join")
    slashed = _accounts(journal, "slash")
    rows: list[list[Cell]] = []
    # Stakes are asked for in the order of the clients.
    for client, account in enumerate(journal.staked):
        put_down = staking.stake if account.lower() in joined else 0
        lost = float(staking.stake * staking.slash_share) if account.lower() in slashed else 0
        rows.append([client, kinds.get(client, ""), put_down, lost, put_down - lost, account])
    columns = ["client", "behaviour", "tokens put down", "tokens lost", "tokens at stake", "account"]
    note = (
        f"A client loses {staking.slash_share:.0%} of its stake, once, after {staking.slash_after} "
        "refused updates that were its own fault."
    )
    return Table("stakes", "Stakes by client", columns, rows, note)


def _accounts(journal: JournalFacts, action: str) -> set[str]:
    """Return the accounts that mined transactions of an action are about, in lower case."""
    words = (one.replace(",", "").split() for one in journal.actions)
    return {found[1].lower() for found in words if len(found) > 1 and found[0] == action}


def _findings(audit: dict[str, Any] | None) -> Table | None:
    found = audit.get("findings") if audit else None
    if not isinstance(found, list):
        return None
    rows: list[list[Cell]] = [
        [_AGREES.get(one.get("ok"), "DIFFERS"), str(one.get("what")), str(one.get("detail"))]
        for one in found
        if isinstance(one, dict)
    ]
    return Table("audit", "What the audit checked", ["verdict", "checked", "found"], rows)


def _gas(journal: JournalFacts, audit: dict[str, Any] | None) -> Table | None:
    """Return transactions and gas by purpose; only an audit tells the gas."""
    counts: dict[str, int] = defaultdict(int)
    for action in journal.actions:
        counts[_kind(action)] += 1
    spent: dict[str, list[float]] = defaultdict(list)
    listed = audit.get("gas") if audit else None
    for one in listed if isinstance(listed, list) else []:
        if isinstance(one, dict) and (gas := number(one, "gas")) is not None:
            spent[_kind(str(one.get("action")))].append(gas)
    kinds = sorted({*counts, *spent})
    if not kinds:
        return None
    note = "" if spent else "Gas used is known after an audit."
    rows: list[list[Cell]] = [
        [kind, counts[kind] or None, sum(spent[kind]) or None, _mean(spent[kind])] for kind in kinds
    ]
    everything = [gas for gases in spent.values() for gas in gases]
    rows.append(["all", len(journal.actions), sum(everything) or None, _mean(everything)])
    columns = ["transactions for", "mined", "gas used", "gas each"]
    return Table("gas", "Transactions and gas", columns, rows, note)


def _kind(action: str) -> str:
    """Return the purpose of a transaction, such as ``record`` or ``deploy FedToken``."""
    words = action.split()
    return " ".join(words[:2]) if words[:1] == ["deploy"] else words[0] if words else "?"


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values)) if values else None
