"""Engines, which run clients in this process, on a Ray cluster or behind a SuperLink."""
