"""A report as one self-contained HTML file."""

from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from fedmeta.report.page import Part
from fedmeta.report.render.plotly_charts import figure
from fedmeta.report.tables import Bytes, Interval, Link, shown

MOST_ROWS = 5000
"""Rows of a table that a page has: a browser could not show the replies of a million clients."""
_STATUSES = ("running", "finished", "failed", "interrupted", "killed")
_HERE = Path(__file__).parents[1] / "templates"
LOOK = Path(__file__).parents[1] / "look"
"""Folder of the style and the script that the live page shares."""


def render(title: str, parts: Sequence[Part]) -> str:
    """Return the page.

    Args:
        title: Its heading.
        parts: Runs and comparisons, in order.
    """
    template = _environment().get_template("report.html")
    drawn = [chart for part in parts for chart in part.charts]
    script, plotly = _text(LOOK / "drawing.js", _HERE / "report.js"), _plotly() if drawn else Markup("")
    return template.render(
        policy=_policy(script, plotly),
        title=title,
        parts=parts,
        figures=[figure(chart) for chart in drawn],
        numbers={id(chart): number for number, chart in enumerate(drawn)},
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        style=_text(LOOK / "look.css", _HERE / "report.css"),
        script=script,
        plotly=plotly,
    )


def _policy(*scripts: str) -> str:
    """Return what the page may do: run its own scripts and no other, and ask nobody for anything."""
    sums = (b64encode(sha256(one.encode()).digest()).decode() for one in scripts)
    own = " ".join(f"'sha256-{one}'" for one in sums)
    return (
        f"default-src 'none'; script-src {own}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _environment() -> Environment:
    # A name or an error text from a file is text, whatever it looks like.
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["most_rows"] = MOST_ROWS
    environment.filters["shown"] = shown
    environment.filters["picture_id"] = id
    environment.filters["status_class"] = lambda status: status if status in _STATUSES else "unreadable"
    environment.tests["link"] = lambda cell: isinstance(cell, Link)
    environment.tests["quantity"] = lambda cell: (
        isinstance(cell, int | float | Interval | Bytes) or cell is None
    )
    return environment


def _text(*files: Path) -> Markup:
    return Markup("".join(file.read_text(encoding="utf-8") for file in files))


@cache
def _plotly() -> Markup:
    return Markup(get_plotlyjs().replace("</script", "<\\/script").replace("\r\n", "\n"))
