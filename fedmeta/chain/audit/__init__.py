"""Works out again, from a run's files and the chain alone, all that the ledger says."""

from fedmeta.chain.audit.audit import audit
from fedmeta.chain.audit.findings import Finding

__all__ = ["Finding", "audit"]
