"""Routes of the web page."""

from functools import cache
from pathlib import Path
from typing import Annotated

import plotly
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from fedmeta.plain_words import requirement
from fedmeta.report.render.html import LOOK
from fedmeta.serve.guard import FRAME_POLICY, REPORT_POLICY, Json
from fedmeta.serve.index import MOST_STREAMS, UnknownError
from fedmeta.serve.pages import Page
from fedmeta.serve.site import Site, render

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

    @app.get("/runs/{id_:path}/")
    def page(id_: str, request: Request) -> Response:
        return _answer(site.page(id_), request)

    @app.get("/selected")
    def selected(ids: RunIds, request: Request) -> Response:
        return _answer(site.selected(ids), request)

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
    # Plotly's address contains its version; the page's own files are small.
    kept = "max-age=31536000, immutable" if name == _PLOTLY.name else "no-cache"
    return FileResponse(_assets()[name], headers={"cache-control": kept})


def _page(template: str, status: int = 200, **values: object) -> Response:
    return HTMLResponse(render(template, **values), status)


def _answer(page: Page, request: Request) -> Response:
    """Return a page; 304 if the reader has this version."""
    headers = {"etag": f'"{page.version}"'} | ({"retry-after": "1"} if page.stale else {})
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    return Response(page.text.encode(errors="replace"), media_type="text/html", headers=headers)


def _problem(status: int, request: Request, line: str) -> Response:
    """Return an error in one line: as JSON to a script, as a page to a person."""
    if request.url.path.startswith(("/api/", "/events")):
        return Json({"error": line}, status)
    return _page("problem.html", status, title="Not found" if status == 404 else "Problem", line=line)


def _unknown(request: Request, error: Exception) -> Response:
    return _problem(404, request, str(error))


def _no_page(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    return _problem(status, request, "there is no such page")


def _bad_query(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return _problem(400, request, f"{first['loc'][-1]}: {requirement(first)}")


def _broken(request: Request, error: Exception) -> Response:
    return _problem(500, request, f"this cannot be shown: {type(error).__name__}; see the server's log")
