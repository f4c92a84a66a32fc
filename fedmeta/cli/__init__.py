"""The command line: thin, one file a command; everything it does can be done from Python as well."""

from fedmeta.cli.main import main

__all__ = ["main"]
