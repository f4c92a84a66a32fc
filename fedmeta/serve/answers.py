"""JSON responses."""

from typing import Any

from starlette.responses import Response

from fedmeta.files import to_json


class Json(Response):
    """Plain values as JSON; a number that is not finite is null, text that is no UTF-8 is escaped."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the bytes of `content`."""
        return to_json(content, separators=(",", ":")).encode()
