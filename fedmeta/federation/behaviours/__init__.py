"""Clients that cheat, do harm or have poor data; each behaviour is one module."""

from fedmeta.federation.behaviour import Behaviour

__all__ = ["Behaviour"]
