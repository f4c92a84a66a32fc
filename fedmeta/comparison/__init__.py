"""Compares arms of an experiment over several seeds."""
