"""Stakes are lost for what a client sent, not for what befell it."""

import hashlib

import pytest

from fedmeta.incentives.slashing import Conduct


def row(client: int, reason: str | None) -> dict[str, object]:
    return {"client": client, "admitted": reason is None, "reason": reason}


def test_the_refusal_too_many_is_told_once_with_all_lines_as_evidence() -> None:
    conduct = Conduct(slash_after=2)
    seen = [
        conduct.look(row(4, reason), line)
        for reason, line in [
            ("task count 9 is not within 1 and 4", b"first\n"),
            (None, b"good\n"),
            ("norm 2e+03 exceeds max_norm 1000", b"second\n"),
            ("not signed", b"third\n"),
        ]
    ]
    assert seen == [None, None, (4, hashlib.sha256(b"first\nsecond\n").digest()), None]


def test_clients_are_counted_apart() -> None:
    conduct = Conduct(slash_after=2)
    assert conduct.look(row(1, "not signed"), b"a") is None
    assert conduct.look(row(2, "not signed"), b"b") is None


@pytest.mark.parametrize(
    "reason",
    [
        "client failed: OSError: disk",
        "no reply within 60 s",
        "was not asked in this round",
        "NaN in 'w'",
        "the same update as client 2's",
    ],
)
def test_a_broken_machine_or_network_is_no_fault(reason: str) -> None:
    assert Conduct(slash_after=1).look(row(1, reason), b"line") is None
