"""The URL of a node: what it may hold, and what may be shown of it."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from fedmeta.errors import UsageError

PREFIX = "FEDMETA_RPC_"
"""What the name of an environment variable begins with that a URL may hold."""

_PLACE = re.compile(r"\$\{([^}]*)(\}?)")
_NAME = re.compile(rf"{PREFIX}[A-Za-z0-9_]+", re.ASCII)


def expand(url: str, environment: Mapping[str, str]) -> str:
    """Put environment variables into a URL: ``https://example.org/v3/${FEDMETA_RPC_KEY}``.

    So a key that a provider wants in the URL stays out of the configuration and of run folders. Only
    names that begin with `PREFIX` are looked up: a config must not choose which secrets leave.

    Raises:
        UsageError: If another variable is named, or one is not set.
    """

    def value(match: re.Match[str]) -> str:
        name, closed = match[1], match[2]
        if not (closed and _NAME.fullmatch(name)):
            raise UsageError(
                f"chain.provider: {match[0]!r} is not put into a URL: only variables whose names begin "
                f"with {PREFIX} are, such as ${{{PREFIX}KEY}}"
            )
        found = environment.get(name)
        if not found:
            raise UsageError(f"chain.provider: the environment variable {name} is not set")
        return found

    return _PLACE.sub(value, url)


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
