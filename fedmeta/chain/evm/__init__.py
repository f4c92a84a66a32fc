"""The embedded chain: a machine, its store, and the JSON-RPC methods that it answers."""
