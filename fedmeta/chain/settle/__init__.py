"""Settlement: frozen rounds are recorded on the chain and paid."""
