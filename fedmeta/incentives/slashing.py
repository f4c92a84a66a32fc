"""Slashing: decides which clients lose stake, and why."""

import hashlib
from collections.abc import Mapping
from typing import Any

NO_FAULT = (
    "client failed: ",
    "no reply within ",
    "reply after ",
    "not needed: ",
    "was not asked ",
    "the same update as ",
    "NaN in ",
    "Inf in ",
)
"""How reasons begin that may befall an honest client: its machine or the network broke or was slow,
enough others had answered, it diverged, or somebody with a lower number copied it."""


class Conduct:
    """Counts updates that were refused for what they were.

    Args:
        slash_after: How many of them are too many.
    """

    def __init__(self, slash_after: int) -> None:
        self.slash_after = slash_after
        self._refused: dict[int, int] = {}
        self._evidence: dict[int, Any] = {}

    def look(self, row: Mapping[str, Any], line: bytes) -> tuple[int, bytes] | None:
        """Look at a client's line of a finished round.

        Args:
            row: A row of ``clients.jsonl``.
            line: The bytes that it was read from.

        Returns:
            The client, and the SHA-256 of all lines against it, if this is the one too many.
        """
        if row["admitted"] or str(row["reason"]).startswith(NO_FAULT):
            return None
        client = row["client"]
        self._refused[client] = count = self._refused.get(client, 0) + 1
        if count > self.slash_after:
            return None
        evidence = self._evidence.setdefault(client, hashlib.sha256())
        evidence.update(line)
        return (client, evidence.digest()) if count == self.slash_after else None
