"""The embedded chain: a virtual machine and its store."""

# Chooses the hash backend, before py-evm, which hashes on import.
import fedmeta.chain.hashing  # noqa: F401
