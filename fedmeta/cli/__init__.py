"""Command line: a thin layer, one file per command, over what Python can do as well."""

import sys

from fedmeta.cli.streams import steady

INTERRUPTED = 130


def main() -> None:
    """Run the command line and exit.

    Imports the commands inside a try: Python's own answer to Ctrl-C during imports is a long traceback.
    """
    stdout = steady()
    try:
        from fedmeta.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("fedmeta: interrupted\n")
        sys.exit(INTERRUPTED)
    run(stdout=stdout)
