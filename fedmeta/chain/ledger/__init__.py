"""The ledger's side of a run: what is frozen, written down on the chain, and paid."""
