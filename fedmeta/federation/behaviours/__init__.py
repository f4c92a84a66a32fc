"""Clients that cheat, do harm or have poor data, as Flower mods around an honest client."""

from fedmeta.federation.behaviours import (  # noqa: F401 (registers them)
    free_riders,
    poisoners,
    poor_data,
    sybils,
)
from fedmeta.federation.behaviours.assignment import Casting, mods_for, read_behaviours
from fedmeta.federation.behaviours.behaviour import BEHAVIOURS, Behaviour, Stage

__all__ = ["BEHAVIOURS", "Behaviour", "Casting", "Stage", "mods_for", "read_behaviours"]
