"""The command line: thin, one file a command; everything it does can be done from Python as well."""

import sys

from fedmeta.cli.streams import steady

INTERRUPTED = 130


def main() -> None:
    """Run the command line and exit; what a user waits for is imported only then.

    Python's own answer to a Ctrl-C while modules load would be pages of their names.
    """
    stdout = steady()
    try:
        from fedmeta.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("fedmeta: interrupted\n")
        sys.exit(INTERRUPTED)
    run(stdout=stdout)
