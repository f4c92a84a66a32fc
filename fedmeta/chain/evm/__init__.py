"""The embedded chain: a virtual machine, its store, and its JSON-RPC methods."""

# Chooses the hash backend, before py-evm, which hashes on import.
import fedmeta.chain.hashing  # noqa: F401
