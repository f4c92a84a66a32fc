"""Replays a seed of `test_thousand.py`: `python -m tests.federation.faults.replay SEED`."""

import sys
import tempfile
from pathlib import Path

from fedmeta.config import parts, to_toml
from fedmeta.experiment import RunFolder
from tests.federation.faults.plans import check, draw


def main(seed: int) -> None:
    """Print a seed's config, run it, print each client's outcome, and check the invariants."""
    config = draw(seed).config
    print(to_toml(config))
    with tempfile.TemporaryDirectory() as folder:
        try:
            check(seed, Path(folder))
        finally:
            whole = Path(folder) / "whole"
            if whole.exists():
                faults = parts.faults(config)
                for row in RunFolder(whole).clients():
                    fault = faults.due(row["round"], row["client"])
                    met = f"{fault.kind:12}" if fault else "-" * 12
                    what = f"{row['outcome']:12}{row['reason'] or ''}"
                    print(f"round {row['round']} client {row['client']:2} {met} {what}")
    print(f"seed {seed}: all holds")


if __name__ == "__main__":
    main(int(sys.argv[1]))
