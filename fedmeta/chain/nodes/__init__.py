"""Nodes that run as processes of ours: their folders, their programs, and their start and end."""
