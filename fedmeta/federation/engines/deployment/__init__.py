"""Flower's deployment engine: a SuperLink, and SuperNodes where the data is."""
