"""Objectives that come with fedmeta; each is one module."""
