from dataclasses import replace

import pytest

from fedmeta.chain.ledger.rounds import awards, decode, encode
from fedmeta.errors import RunError
from tests.chain.ledger.rounds import synthetic_round

ROUND = synthetic_round(1)
FIRST = ROUND.contributions[0]


def same(a, b):
    """Equal, but for how the letters of an address are written."""
    return str(a).lower() == str(b).lower()


def test_a_round_comes_back_from_its_bytes():
    assert same(decode(encode(ROUND)), ROUND)
    assert same(decode(encode(synthetic_round(3))), synthetic_round(3)), "a skipped round has no rows"


def test_a_score_that_was_not_given_comes_back_as_none():
    unscored = replace(ROUND, contributions=(replace(FIRST, score=None),))
    assert decode(encode(unscored)).contributions[0].score is None


def test_the_case_of_an_address_does_not_change_the_bytes():
    upper = replace(FIRST, account="0x" + FIRST.account[2:].upper())
    changed = replace(ROUND, contributions=(upper, *ROUND.contributions[1:]))
    assert encode(changed) == encode(ROUND)


@pytest.mark.parametrize(
    "change",
    [
        {"tasks": 77},
        {"update": b"u" * 32},
        {"signature": b"s" * 65},
        {"score": 0.123},
        {"score": None},
        {"reward": FIRST.reward + 1},
        {"account": "0x" + "12" * 20},
    ],
)
def test_every_field_is_part_of_the_bytes(change):
    changed = replace(ROUND, contributions=(replace(FIRST, **change), *ROUND.contributions[1:]))
    assert encode(changed) != encode(ROUND)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"round": 0}, "count from 1"),
        ({"model": b"short"}, "32 bytes"),
        ({"contributions": ROUND.contributions[::-1]}, "rising client id"),
        ({"contributions": (FIRST, replace(FIRST, client=9))}, "two contributions of one account"),
        ({"contributions": (replace(FIRST, reward=-1),)}, "client 0: negative"),
        ({"contributions": (replace(FIRST, score=float("inf")),)}, "client 0: the score is not finite"),
        ({"contributions": (replace(FIRST, signature=b"x"),)}, "client 0: .*65"),
    ],
)
def test_what_has_no_byte_form_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        encode(replace(ROUND, **change))


@pytest.mark.parametrize("data", [b"", b"x" * 200, encode(ROUND)[:-1], encode(ROUND) + b"\0"])
def test_bytes_that_are_no_round_are_refused(data):
    with pytest.raises(RunError, match="not a frozen round"):
        decode(data)


def test_awards_are_those_of_the_contributions():
    expected = [(bytes.fromhex(c.account[2:]), c.reward) for c in ROUND.contributions]
    assert list(awards(encode(ROUND))) == expected
