"""Checks every request, and adds headers to every response."""

import ipaddress
from collections.abc import Callable
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedmeta.files import to_json

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page runs its own scripts and talks to its own server, nothing else; plotly writes styles."""
REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)
"""A report runs its own scripts, but reaches neither this server nor any other."""
FRAME_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; frame-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""Policy of the page around a report: it keeps the report's frame from leading elsewhere."""
MOST_HELD = 1 << 28
"""Most bytes of responses that wait for slow readers, all together."""
_PIECE = 1 << 16
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
    # Browsers look up host names in links ahead of time, which tells their owner.
    "x-dns-prefetch-control": "off",
}


class Guard:
    """Refuses requests that do not come from a browser on this machine.

    Only GET is answered. The name under which the server was reached must be one of its own: a page of
    another site, whose name was made to lead to this machine, still sends that site's name.

    Args:
        app: What answers.
        host: The address that the server listens on.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._names = {"localhost", host.lower()}
        self._anywhere = host in ("0.0.0.0", "::")
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        name = headers.get(b"host", b"").decode("latin-1")
        if not self._own(name):
            await _refuse(send, 421, "this server does not go by that name")
        elif scope["method"] != "GET":
            await _refuse(send, 405, "there is nothing to change here: GET alone is answered")
        else:
            answer = _Answer(_with_headers(send), self._hold)
            try:
                await self._app(scope, receive, answer.send)
            finally:
                self._held -= answer.held

    def _hold(self, size: int) -> bool:
        """Reserve room for bytes that wait; False: there is none."""
        if self._held + size > MOST_HELD:
            return False
        self._held += size
        return True

    def _own(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        name = name.strip("[]").lower()
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # DNS cannot redirect a bare address.
        return address.is_loopback or self._anywhere


class _Answer:
    """Sends a response in pieces, so that what a slow reader has not taken is held only once."""

    def __init__(self, send: Send, hold: Callable[[int], bool]) -> None:
        self._send = send
        self._hold = hold
        self._start: Message | None = None
        self._refused = False
        self.held = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        elif not self._refused:
            await self._body(message)

    async def _body(self, message: Message) -> None:
        body = message.get("body", b"")
        if self._start:
            start, self._start = self._start, None
            if not self._hold(len(body)):
                self._refused = True
                await _refuse(self._send, 503, "too many answers wait for their readers: try again")
                return
            self.held = len(body)
            await self._send(start)
        more = message.get("more_body", False)
        for first in range(0, max(len(body), 1), _PIECE):
            piece = body[first : first + _PIECE]
            rest = more or first + _PIECE < len(body)
            await self._send({"type": "http.response.body", "body": piece, "more_body": rest})


def _with_headers(send: Send) -> Send:
    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = {key for key, _ in message["headers"]}
            for key, value in (_HEADERS | {"content-security-policy": POLICY}).items():
                if key.encode() not in given:
                    message["headers"].append((key.encode(), value.encode()))
        await send(message)

    return add


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = to_json({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 405:
        headers.append((b"allow", b"GET"))
    start = {"type": "http.response.start", "status": status, "headers": headers}
    await _with_headers(send)(start)
    await send({"type": "http.response.body", "body": body})


class Json(Response):
    """JSON responses: NaN and infinity become null, and text that is not UTF-8 is escaped."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the bytes of `content`."""
        return to_json(content, separators=(",", ":")).encode()
