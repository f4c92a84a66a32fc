"""Aggregation rules; each is one module, a class named after its file."""
