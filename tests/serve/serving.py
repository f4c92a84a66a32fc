"""A real HTTP server in this process, and folders of runs that tests change."""

import http.client
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import uvicorn

from fedmeta.serve.server import make_server
from fedmeta.serve.site import Site


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Served:
    """A folder that is being served."""

    root: Path
    port: int
    server: uvicorn.Server
    site: Site

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def page(self, id_: str) -> str:
        return f"{self.address}/runs/{quote(id_)}/"

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Ask for a path as it is written, without a client's tidying."""
        connection = self.connect()
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()


@contextmanager
def serving(root: Path) -> Iterator[Served]:
    """Serve a folder on a free port."""
    server, listener, site = make_server(root, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield Served(root, listener.getsockname()[1], server, site)
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()
    assert not thread.is_alive()


def copy(run: Path, to: Path) -> Path:
    """Copy a run; return the copy."""
    return Path(shutil.copytree(run, to))


def edit(run: Path, **changes: object) -> None:
    """Change entries of a run's ``run.json``."""
    path = run / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rows(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a log."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]
