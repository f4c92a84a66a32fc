"""Runs the command line: `python -m fedmeta`."""

import os
import sys

# Python searches the current folder first, where a csv.py would shadow the standard library's.
if not sys.flags.safe_path and sys.path[0] == os.getcwd():
    here = sys.path.pop(0)
    # A checkout that is not installed is found only there, also by our worker processes.
    if os.path.dirname(os.path.dirname(os.path.abspath(__file__))) == here:
        sys.path.append(here)

from fedmeta.cli import main

main()
