import struct
from dataclasses import replace

import pytest

from fedmeta.chain.settle.rounds import HEAD_BYTES, contributions_in, decode, encode, rewards
from fedmeta.errors import RunError
from tests.chain.settle.rounds import synthetic_round

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


def test_rewards_are_those_of_the_contributions():
    expected = [(bytes.fromhex(c.account[2:]), c.reward) for c in ROUND.contributions]
    assert list(rewards(encode(ROUND))) == expected


def test_rewards_of_any_size_that_the_ledger_holds_come_back():
    most = 2**128 - 1
    for each in ([most, 0], [2**63, 1], [2**63 - 1, 2**64 + 1]):
        pairs = zip(ROUND.contributions[:2], each, strict=True)
        wide = replace(ROUND, contributions=tuple(replace(c, reward=r) for c, r in pairs))
        assert same(decode(encode(wide)), wide)
        assert [units for _, units in rewards(encode(wide))] == each
        assert contributions_in(encode(wide)[:HEAD_BYTES]) == 2
    with pytest.raises(ValueError, match=r"client 0: .* 2\^128 units"):
        encode(replace(ROUND, contributions=(replace(FIRST, reward=most + 1),)))


def test_a_round_of_smaller_rewards_has_the_bytes_that_it_always_had():
    one = replace(FIRST, reward=2**63 - 1)
    head = b"fedmeta round 1\n" + (1).to_bytes(8) + (1).to_bytes(8) + ROUND.model + ROUND.evidence
    row = (0).to_bytes(8) + bytes.fromhex(one.account[2:]) + one.tasks.to_bytes(8) + one.update
    row += one.signature + struct.pack(">d", one.score) + (2**63 - 1).to_bytes(8)
    assert encode(replace(ROUND, contributions=(one,))) == head + row


def test_rewards_of_what_is_no_round_are_refused():
    with pytest.raises(RunError, match="not a frozen round"):
        list(rewards(b"fedmeta round 9\n" + encode(ROUND)[16:]))
