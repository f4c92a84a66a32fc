"""`fedmeta chain audit`: recomputes the ledger of a run from its files and compares it to the chain."""

from contextlib import closing
from pathlib import Path

from fedmeta.chain.audit.files import RunChecks, RunFiles
from fedmeta.chain.audit.findings import Finding, look
from fedmeta.chain.audit.onchain import ChainChecks, journaled
from fedmeta.chain.chain import open_chain
from fedmeta.chain.errors import ChainDownError
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.settle.campaign import JOURNAL
from fedmeta.chain.settle.deployment import attach
from fedmeta.chain.settle.journal import JournalView
from fedmeta.errors import FedmetaError

__all__ = ["Finding", "audit"]


def audit(run_folder: Path, options: ChainOptions) -> list[Finding]:
    """Recompute a run's ledger from the run's files, and compare it to the chain.

    Returns:
        The checks, in order; the first that is not ok is the first difference.

    Raises:
        UsageError: If there is no run, or it has no ledger.
    """
    files = RunFiles(run_folder)
    try:
        journal = JournalView(run_folder / "chain" / JOURNAL)
    except FedmetaError as error:
        if error.exit_code == 2:
            raise
        return [Finding(False, "journal", str(error))]
    with closing(journal):
        checks = RunChecks(files, journal)
        return [
            look("run", checks.identity),
            look("rounds in the logs", checks.rounds),
            look("clients' signatures", checks.signatures),
            look("checkpoints", checks.checkpoints),
            look("records in the journal", lambda: journaled(journal)),
            *_chain(run_folder / "chain", options, journal),
        ]


def _chain(folder: Path, options: ChainOptions, journal: JournalView) -> list[Finding]:
    try:
        with open_chain(options, folder) as chain:
            checks = ChainChecks(attach(journal, chain), journal)
            return [
                look("contracts", checks.contracts),
                look("records on the chain", checks.recorded),
                look("committee's signatures", checks.endorsed),
                look("awards", checks.awards),
                look("claims", checks.claims),
                look("tokens", checks.tokens),
                look("escrow", checks.escrow),
                look("stakes", checks.stakes),
            ]
    except ChainDownError as error:
        return [Finding(None, "chain", str(error))]
    except FedmetaError as error:
        return [Finding(False, "chain", str(error))]
