"""Flower's deployment engine: a SuperLink, and SuperNodes on the machines of those who own the data."""
