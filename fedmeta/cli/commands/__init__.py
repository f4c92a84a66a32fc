"""One module for each command, or for two that share their work."""
