"""What every request passes, and every answer carries."""

import ipaddress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedmeta.files import to_json

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page runs its own scripts and talks to its own server, nothing else; plotly writes styles."""
REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:; frame-ancestors 'none'"
)
"""A report runs its own scripts, but reaches neither this server nor any other."""
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Refuses what a browser on this machine has no reason to ask.

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
            await self._app(scope, receive, _with_headers(send))

    def _own(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        name = name.strip("[]").lower()
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # Nobody can make a bare address lead elsewhere than it does.
        return address.is_loopback or self._anywhere


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
