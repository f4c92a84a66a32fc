"""A federated meta-learning simulator."""
