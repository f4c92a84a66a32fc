"""Slashing: decides which clients lose stake, and why."""

import hashlib
from typing import Any


class SlashingPolicy:
    """Counts updates that were refused for what they were.

    Args:
        slash_after: How many of them are too many.
    """

    def __init__(self, slash_after: int) -> None:
        self.slash_after = slash_after
        self._refused: dict[int, int] = {}
        self._evidence: dict[int, Any] = {}

    def blame(self, client: int, line: bytes) -> tuple[int, bytes] | None:
        """Count a refusal that was the client's fault.

        Args:
            client: The client.
            line: The refusal as it stands in ``clients.jsonl``.

        Returns:
            The client, and the SHA-256 of all lines against it, if this is the one too many.
        """
        self._refused[client] = count = self._refused.get(client, 0) + 1
        if count > self.slash_after:
            return None
        evidence = self._evidence.setdefault(client, hashlib.sha256())
        evidence.update(line)
        return (client, evidence.digest()) if count == self.slash_after else None
