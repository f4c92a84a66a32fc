"""Audits a run's ledger and saves the findings for the report."""

from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fedmeta.chain import ChainOptions
from fedmeta.errors import FedmetaError
from fedmeta.files import to_json, write_atomically

if TYPE_CHECKING:
    from fedmeta.chain.audit.findings import Finding
    from fedmeta.chain.settle.status import Spent


AUDIT = "audit.json"
VERSION = 1


def audit(chain_folder: Path, options: ChainOptions) -> "list[Finding]":
    """Audit a run, and write the findings and the gas of its transactions to ``chain/audit.json``.

    Args:
        chain_folder: The run's ``chain`` folder.
        options: The chain's options.

    Raises:
        UsageError: If there is no run, or it has no ledger.
    """
    from fedmeta.chain.audit import audit as check
    from fedmeta.chain.settle.status import gas_spent

    findings = check(chain_folder.parent, options)
    try:
        gas = gas_spent(chain_folder, options)
    except FedmetaError:
        # The findings already say what is wrong with the journal or the chain.
        gas = []
    # Return the findings even if the folder is read-only; a report will then not show them.
    with suppress(OSError):
        _write(chain_folder / AUDIT, findings, gas)
    return findings


def _write(path: Path, findings: "list[Finding]", gas: "list[Spent]") -> None:
    from fedmeta.chain.audit.findings import verdict

    said = {
        "version": VERSION,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "agrees": verdict(findings),
        "findings": [asdict(finding) for finding in findings],
        "gas": [asdict(one) for one in gas],
    }
    write_atomically(path, to_json(said, indent=1).encode())
