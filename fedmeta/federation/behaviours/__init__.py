"""Clients that cheat, do harm or have poor data, as Flower mods around an honest client."""

from fedmeta.federation.behaviours import (  # noqa: F401 (registers them)
    free_riders,
    poisoners,
    poor_data,
    sybils,
)
from fedmeta.federation.behaviours.base import BEHAVIOURS, Behaviour, Stage
from fedmeta.federation.behaviours.casting import Casting, mods_for, read_behaviours

__all__ = ["BEHAVIOURS", "Behaviour", "Casting", "Stage", "mods_for", "read_behaviours"]
