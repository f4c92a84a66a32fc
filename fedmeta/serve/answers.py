"""Answers in JSON that are always whole, whatever a file held."""

import json
import math
from typing import Any

from starlette.responses import Response


class Json(Response):
    """Plain values as JSON; a number that is not finite is null, text that is no UTF-8 is escaped."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the bytes of `content`."""
        return json.dumps(_finite(content), allow_nan=False, separators=(",", ":")).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
