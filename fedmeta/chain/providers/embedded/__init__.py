"""A chain in this process: py-evm executes, SQLite remembers, and it answers like any other node."""
