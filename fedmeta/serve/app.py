"""Routes of the web page, and the views of a folder of runs."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import plotly
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException

from fedmeta.report.read import RunFiles
from fedmeta.report.render.html import LOOK
from fedmeta.serve.comparison import comparison_view, selected_view
from fedmeta.serve.guard import FRAME_POLICY, REPORT_POLICY, Json
from fedmeta.serve.index import MOST_STREAMS, Entry, Events, Index, Kind, UnknownError, Versions
from fedmeta.serve.runs import POINTS, OpenRuns, curves_view, run_view
from fedmeta.serve.summary import Summaries

View = dict[str, Any]


class Site:
    """A folder of runs as the page shows it.

    Every method that takes an id raises `UnknownError` if it is none, or if its files may not be read.

    Args:
        root: The folder of runs.
        stopping: Whether the server is about to end.
    """

    def __init__(self, root: Path, stopping: Callable[[], bool]) -> None:
        self.index = Index(root)
        self.summaries = Summaries()
        self.events = Events(self._versions, stopping)
        self._open = OpenRuns()

    def _versions(self) -> Versions:
        entries = self.index.entries()
        rows = self.summaries.all(entries)
        return {row["id"]: (entries[row["id"]].stamp, row["status"]) for row in rows}

    def require(self, id_: str, kind: Kind = "run") -> Entry:
        """Return the entry of an id."""
        entry = self.index.find(id_, kind)
        if entry.problem:
            raise UnknownError(f"this {kind} is not read: {entry.problem}")
        return entry

    def _files(self, id_: str) -> RunFiles:
        entry = self.require(id_)
        return self._open.get(entry).files(entry)

    def runs(self) -> View:
        """Return the list of runs and comparisons."""
        return {"root": str(self.index.root), "rows": self.summaries.all(self.index.entries())}

    def run(self, id_: str) -> View:
        """Return all about a run but its curves by round and its clients."""
        return run_view(self.require(id_), self._files(id_))

    def curves(self, id_: str, points: int) -> View:
        """Return a run's curves by round, of at most `points` points each."""
        return curves_view(self._files(id_), points)

    def clients(self, id_: str) -> View:
        """Return a run's clients and its quarantine log."""
        return self._open.get(self.require(id_)).clients()

    def selected(self, ids: Sequence[str], points: int) -> View:
        """Return some runs beside each other."""
        return selected_view({id_: self._files(id_) for id_ in dict.fromkeys(ids)}, points)

    def comparison(self, id_: str) -> View:
        """Return a comparison's arms."""
        return comparison_view(self.require(id_, "comparison"), self.index)

    def report(self, id_: str) -> Path:
        """Return the file of a run's or a comparison's report.

        Raises:
            UnknownError: If there is none.
        """
        found = self.index.entries().get(id_)
        entry = self.require(id_, found.kind if found else "run")
        path = entry.path / "report.html"
        if not path.is_file():
            raise UnknownError(f"no report yet: `fedmeta report {entry.path}` makes it")
        return path


Points = Annotated[int, Query(ge=100, le=100_000)]
RunIds = Annotated[list[str], Query(alias="run", min_length=1, max_length=16)]

_HERE = Path(__file__).parent
_PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def make_app(site: Site) -> FastAPI:
    """Return the application; `fedmeta.serve.guard.Guard` belongs in front of it."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    _pages(app, site)
    _api(app, site)
    app.add_api_route("/static/{name}", _asset)
    app.add_exception_handler(UnknownError, _unknown)
    app.add_exception_handler(HTTPException, _no_page)
    app.add_exception_handler(RequestValidationError, _bad_query)
    app.add_exception_handler(Exception, _broken)
    return app


def _pages(app: FastAPI, site: Site) -> None:
    @app.get("/")
    def runs() -> Response:
        return _page("list.html", title="Runs", root=str(site.index.root))

    @app.get("/run/{id_:path}")
    def run(id_: str) -> Response:
        site.require(id_, "run")
        return _page("run.html", title=id_, id=id_)

    @app.get("/comparison/{id_:path}")
    def comparison(id_: str) -> Response:
        site.require(id_, "comparison")
        return _page("comparison.html", title=id_, id=id_)

    @app.get("/selected")
    def selected(ids: RunIds) -> Response:
        for id_ in ids:
            site.require(id_, "run")
        return _page("selected.html", title=f"{len(ids)} runs", ids=ids)

    @app.get("/report/{id_:path}")
    def report(id_: str) -> Response:
        site.report(id_)
        page = _page("report.html", title=id_, id=id_)
        page.headers["content-security-policy"] = FRAME_POLICY
        return page

    @app.get("/report-alone/{id_:path}")
    def report_alone(id_: str) -> Response:
        headers = {"content-security-policy": REPORT_POLICY}
        return FileResponse(site.report(id_), media_type="text/html", headers=headers)


def _api(app: FastAPI, site: Site) -> None:
    @app.get("/api/runs")
    def runs() -> Response:
        return Json(site.runs())

    @app.get("/api/run/{id_:path}")
    def run(id_: str) -> Response:
        return Json(site.run(id_))

    @app.get("/api/curves/{id_:path}")
    def curves(id_: str, points: Points = POINTS) -> Response:
        return Json(site.curves(id_, points))

    @app.get("/api/clients/{id_:path}")
    def clients(id_: str) -> Response:
        return Json(site.clients(id_))

    @app.get("/api/comparison/{id_:path}")
    def comparison(id_: str) -> Response:
        return Json(site.comparison(id_))

    @app.get("/api/selected")
    def selected(ids: RunIds, points: Points = POINTS) -> Response:
        return Json(site.selected(ids, points))

    @app.get("/events")
    async def events() -> Response:
        if site.events.open >= MOST_STREAMS:
            return Json({"error": "too many pages are open: close one"}, 503)
        return StreamingResponse(site.events.stream(), media_type="text/event-stream")


@cache
def _assets() -> dict[str, Path]:
    return {path.name: path for path in (*(_HERE / "static").iterdir(), *LOOK.iterdir(), _PLOTLY)}


def _asset(name: str) -> Response:
    if name not in _assets():
        raise HTTPException(404)
    # The version stands in plotly's address; the page's own files are small.
    kept = "max-age=31536000, immutable" if name == _PLOTLY.name else "no-cache"
    return FileResponse(_assets()[name], headers={"cache-control": kept})


@cache
def _environment() -> Environment:
    # A name from the disk or an address is text, whatever it looks like.
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined
    )
    environment.globals["plotly_version"] = plotly.__version__
    return environment


def _page(template: str, status: int = 200, **values: object) -> Response:
    return HTMLResponse(_environment().get_template(template).render(**values), status)


def _problem(status: int, request: Request, line: str) -> Response:
    """Return one clear line: as JSON where a script asks, as a page where a person does."""
    if request.url.path.startswith(("/api/", "/events")):
        return Json({"error": line}, status)
    return _page("problem.html", status, title="Not found" if status == 404 else "Problem", line=line)


def _unknown(request: Request, error: Exception) -> Response:
    return _problem(404, request, str(error))


def _no_page(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    return _problem(status, request, "there is no such page")


def _bad_query(request: Request, error: Exception) -> Response:
    first = (
        error.errors()[0] if isinstance(error, RequestValidationError) else {"loc": ("?",), "msg": ""}
    )
    return _problem(400, request, f"{first['loc'][-1]}: {first['msg']}")


def _broken(request: Request, error: Exception) -> Response:
    return _problem(500, request, f"this cannot be shown: {type(error).__name__}; see the server's log")
