"""The addresses of the page and what each one answers."""

from functools import cache
from pathlib import Path
from typing import Annotated

import plotly
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException

from fedmeta.report.html import LOOK
from fedmeta.serve.answers import Json
from fedmeta.serve.events import MOST_STREAMS
from fedmeta.serve.guard import FRAME_POLICY, REPORT_POLICY
from fedmeta.serve.index import UnknownError
from fedmeta.serve.runs import POINTS
from fedmeta.serve.site import Site

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
