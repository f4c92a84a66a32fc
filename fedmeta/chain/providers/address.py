"""The URL of a node: what it may hold, and what may be shown of it."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from fedmeta.errors import UsageError

_VARIABLE = re.compile(r"\$\{(\w+)\}")


def expand(url: str, environment: Mapping[str, str]) -> str:
    """Put environment variables into a URL: ``https://example.org/v3/${API_KEY}``.

    So a key that a provider wants in the URL stays out of the configuration and of run folders.

    Raises:
        UsageError: If a variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        found = environment.get(match[1])
        if not found:
            raise UsageError(f"chain.provider: the environment variable {match[1]} is not set")
        return found

    return _VARIABLE.sub(value, url)


def shown(url: str) -> str:
    """Return what messages may show of a URL: no path, query or password, which may be secret.

    Raises:
        UsageError: If it has no host, or a port that is no number.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"chain.provider: {error}") from None
    if not host:
        raise UsageError("chain.provider: the URL has no host")
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")
