"""The embedded chain: a machine, its store, and the JSON-RPC methods that it answers."""

# py-evm hashes as soon as it is imported: how is chosen before.
import fedmeta.chain.hashing  # noqa: F401
