"""Chains to write on: in process, local nodes that we start, and any node by its URL."""
