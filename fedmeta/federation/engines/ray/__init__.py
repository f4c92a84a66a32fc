"""Flower's simulation engine: clients in the processes of a Ray cluster, here or elsewhere."""
