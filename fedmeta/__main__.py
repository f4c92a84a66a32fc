"""`python -m fedmeta` is the command line."""

import os
import sys

# Python looks in the current folder first, and a csv.py there would pass for its own.
if not sys.flags.safe_path and sys.path[0] == os.getcwd():
    here = sys.path.pop(0)
    # A checkout that is not installed is found nowhere else, by our worker processes neither.
    if os.path.dirname(os.path.dirname(os.path.abspath(__file__))) == here:
        sys.path.append(here)

from fedmeta.cli import main

main()
