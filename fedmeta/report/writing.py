"""Writes reports: one HTML page about folders of runs, with pictures and CSV files beside it."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fedmeta.errors import UsageError
from fedmeta.files import write_atomically
from fedmeta.report.page import Keys, Part
from fedmeta.report.parts import Kind, compare_part, run_part, unreadable_part
from fedmeta.report.read import is_compare, read_compare, read_run, require_folder
from fedmeta.report.render.csv_files import write_sheets
from fedmeta.report.render.html import render
from fedmeta.report.render.png import require_extra, write_pictures

REPORT = "report.html"


@dataclass(frozen=True)
class Written:
    """The files that a report was written to.

    Attributes:
        report: The page.
        parts: Of the page, in order.
        pictures: PNG files.
        sheets: CSV files.
    """

    report: Path
    parts: Sequence[Part]
    pictures: Sequence[Path] = field(default_factory=list)
    sheets: Sequence[Path] = field(default_factory=list)


def write_report(
    folders: Sequence[Path], out: Path | None = None, png: Path | None = None, csv: Path | None = None
) -> Written:
    """Write a report about runs and comparisons; nothing else in their folders is changed.

    Args:
        folders: Of runs and comparisons, in any state.
        out: The page's file; None: ``report.html`` in the folder, or for several in the current one.
        png: Folder for the charts as pictures; None: none.
        csv: Folder for charts and tables as CSV files; None: none.

    Raises:
        UsageError: If a folder is neither, the page cannot be written there, a file is in the place of
            a folder, or matplotlib is missing; nothing was written then.
    """
    kept = [require_folder(folder) for folder in folders]
    if png is not None:
        require_extra()
    page = out or (kept[0] / REPORT if len(kept) == 1 else Path(REPORT))
    if page.is_dir():
        raise UsageError(f"--out {page} is a folder: name a file, such as {page / REPORT}")
    for option, folder in (("--png", png), ("--csv", csv)):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise UsageError(f"{option} {folder} is a file: name a folder")
    keys = Keys()
    with _uncollected():
        beside = page.resolve().parent
        parts = [_part(folder, keys.new(folder.resolve().name), beside) for folder in kept]
        try:
            page.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(page, render(_title(parts), parts).encode(errors="replace"))
            pictures = write_pictures(png, parts) if png is not None else []
            sheets = write_sheets(csv, parts) if csv is not None else []
        except OSError as error:
            raise UsageError(f"cannot write to {error.filename or page}: {error.strerror}") from None
    return Written(page, parts, pictures, sheets)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause garbage collection: a million rows have no cycles, and each pass would visit them all."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _part(folder: Path, key: str, beside: Path) -> Part:
    # The name of `.` is the folder's own.
    path = folder if folder.name else folder.resolve()
    kind: Kind = "comparison" if is_compare(folder) else "run"
    try:
        if kind == "comparison":
            return compare_part(read_compare(path), key, beside)
        return run_part(read_run(path), key)
    except Exception as error:
        # Whatever is in one folder, the others are reported.
        return unreadable_part(path, kind, key, error)


def _title(parts: Sequence[Part]) -> str:
    names = [part.name for part in parts]
    if len(names) > 3:
        return f"{names[0]}, {names[1]} and {len(names) - 2} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
