"""Commands, one module each, found by name.

A module holds a function of its name (``list_`` in ``list.py``), or a `typer.Typer` called ``app``.
"""

import gc
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "-s",
        "--set",
        metavar="KEY=VALUE",
        help="Set a config key; may be repeated. See `fedmeta list keys`.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, and all else on stderr.")
]
Experiment = Annotated[
    str, typer.Argument(metavar="NAME|FILE", help="An experiment from `fedmeta list`, or a TOML file.")
]
RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart-001.")
]
Seed = Annotated[list[int] | None, typer.Option(metavar="N", help="Random seed (same as -s seed=N).")]
Faults = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="TOML file with a fault plan ([faults] keys)."),
]
NoCheck = Annotated[
    bool,
    typer.Option(
        "--no-check",
        help="Skip the check that tries your own model, algorithm or task family on a tiny batch.",
    ),
]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code", help="Run code named in the run's config, even if the run comes from elsewhere."
    ),
]
DEBUG = "--debug"
Debug = Annotated[bool, typer.Option(DEBUG, help="Print tracebacks, of client code too, on stderr.")]
Out = Annotated[Path | None, typer.Option(help="Run folder; default: a new one under runs/.")]
Best = Annotated[bool, typer.Option("--best", help="Use the best checkpoint instead of the latest.")]


class Samples(StrEnum):
    """Bits actually used by samples of more than 8 bits; as in `RANGES`."""

    auto = "auto"
    eight = "8"
    ten = "10"
    twelve = "12"
    fourteen = "14"
    sixteen = "16"

    @property
    def bits(self) -> int | None:
        """The number; None for ``auto``."""
        return None if self is Samples.auto else int(self)


def import_torch() -> None:
    """Import PyTorch without garbage collection, which takes a tenth of a short command's time.

    What the import creates lasts as long as the process, so later collections skip it too.
    """
    if "torch" in sys.modules or not gc.isenabled():
        return
    gc.disable()
    try:
        import torch  # noqa: F401 (imported for those who import it next)
    finally:
        gc.freeze()
        gc.enable()
