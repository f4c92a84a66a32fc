"""Settlement: records frozen rounds on the chain and pays them."""
