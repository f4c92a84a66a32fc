"""Stakes are lost once a client was at fault too often, with all its lines as evidence."""

import hashlib

from fedmeta.incentives.slashing import SlashingPolicy


def test_the_refusal_too_many_is_told_once_with_all_lines_as_evidence() -> None:
    conduct = SlashingPolicy(slash_after=2)
    seen = [conduct.blame(4, line) for line in (b"first\n", b"second\n", b"third\n")]
    assert seen == [None, (4, hashlib.sha256(b"first\nsecond\n").digest()), None]


def test_clients_are_counted_apart() -> None:
    conduct = SlashingPolicy(slash_after=2)
    assert conduct.blame(1, b"a") is None
    assert conduct.blame(2, b"b") is None
