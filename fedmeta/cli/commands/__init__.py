"""Commands; each is one module, found by its name.

It holds a function of that name (``list_`` in ``list.py``), or a `typer.Typer` called ``app``.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Settings = Annotated[
    list[str] | None,
    typer.Option("-s", "--set", metavar="KEY=VALUE", help="Replace a value; see `fedmeta list keys`."),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout; the rest goes to stderr.")
]
Experiment = Annotated[
    str, typer.Argument(metavar="NAME|FILE", help="An experiment of `fedmeta list`, or a TOML file.")
]
RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder of a run, such as runs/quickstart-001.")
]
Seed = Annotated[list[int] | None, typer.Option(metavar="N", help="Random seed; the same as -s seed=N.")]
Faults = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Faults to inject: a TOML file with the keys of [faults]."),
]
NoCheck = Annotated[
    bool,
    typer.Option(
        "--no-check",
        help="Do not try your own model, algorithm or task family on a tiny batch first.",
    ),
]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code", help="Run the code that a run's config names, though it was not made here."
    ),
]
DEBUG = "--debug"
Debug = Annotated[
    bool, typer.Option(DEBUG, help="Print the tracebacks of clients' code, and of ours, on stderr.")
]
Out = Annotated[Path | None, typer.Option(help="Folder of the run; by default new under runs/.")]
Best = Annotated[
    bool, typer.Option("--best", help="Take the checkpoint that scored best, not the newest.")
]


class Samples(StrEnum):
    """Bits in use of samples with room for more than 8; those of `RANGES`."""

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
