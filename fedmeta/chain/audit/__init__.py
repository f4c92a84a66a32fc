"""`fedmeta chain audit`: recomputes the ledger of a run from its files and compares it to the chain."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from fedmeta.chain.audit.files import RunChecks, RunFiles
from fedmeta.chain.audit.findings import Finding, look
from fedmeta.chain.audit.ledger import ChainChecks, journaled
from fedmeta.chain.audit.tokens import TokenChecks
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
    path = run_folder / "chain" / JOURNAL
    try:
        journal = JournalView(path)
    except FedmetaError as error:
        if error.exit_code == 2:
            raise
        return [Finding(False, "journal", str(error))]
    with closing(journal):
        return [*_files(files, journal), *_chain(run_folder, options, journal)]


def _files(files: RunFiles, journal: JournalView) -> Iterator[Finding]:
    checks = RunChecks(files, journal)
    yield look("run", checks.identity)
    yield look("rounds in the logs", checks.rounds)
    yield look("clients' signatures", checks.signatures)
    yield look("checkpoints", checks.checkpoints)
    yield look("records in the journal", lambda: journaled(journal))


def _chain(run_folder: Path, options: ChainOptions, journal: JournalView) -> list[Finding]:
    try:
        with open_chain(options, run_folder / "chain") as chain:
            deployed = attach(journal, chain)
            ledger, tokens = ChainChecks(deployed, journal), TokenChecks(deployed, journal)
            return [
                look("contracts", ledger.contracts),
                look("records on the chain", ledger.recorded),
                look("committee's signatures", ledger.endorsed),
                look("awards", tokens.awards),
                look("claims", tokens.claims),
                look("tokens", tokens.tokens),
                look("escrow", tokens.escrow),
                look("stakes", tokens.stakes),
            ]
    except ChainDownError as error:
        return [Finding(None, "chain", str(error))]
    except FedmetaError as error:
        return [Finding(False, "chain", str(error))]
