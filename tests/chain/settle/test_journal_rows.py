import math
from dataclasses import replace

import pytest

from fedmeta.chain.settle.journal_rows import Content, SignedRecord
from tests.chain.settle.rounds import synthetic_round

ROUND = synthetic_round(1)
FIRST = ROUND.contributions[0]
CONTENT = Content(1, 2, b"a" * 32, b"b" * 32, b"c" * 32, b"d" * 32, 9)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"round": 0}, "count from 1"),
        ({"model": b"short"}, "32 bytes"),
        ({"contributions": ROUND.contributions[::-1]}, "rising client id"),
        ({"contributions": (FIRST, replace(FIRST, client=9))}, "two contributions of one account"),
        ({"contributions": (replace(FIRST, reward=-1),)}, "client 0: .* out of range"),
        ({"contributions": (replace(FIRST, reward=2**128),)}, "client 0: .* out of range"),
        ({"contributions": (replace(FIRST, tasks=2**63),)}, "client 0: .* out of range"),
        ({"contributions": (replace(FIRST, score=math.inf),)}, "client 0: the score is not finite"),
        ({"contributions": (replace(FIRST, signature=b"x"),)}, "client 0: .*65"),
    ],
)
def test_invalid_rounds_are_not_frozen(change, said):
    with pytest.raises(ValueError, match=said):
        replace(ROUND, **change).check()


def test_a_difference_names_the_first_field_and_both_values():
    assert CONTENT.differs(CONTENT) is None
    other = replace(CONTENT, model=b"\x01" * 32, total=5)
    assert CONTENT.differs(other) == f"model 0x{b'c'.hex() * 32} and 0x{'01' * 32}"


def test_a_signed_record_differs_by_what_it_says_alone():
    signed = SignedRecord(**vars(CONTENT), ledger="0x1", epoch=3, signatures=b"s", mined=True)
    assert signed.differs(CONTENT) is None
    assert CONTENT.differs(replace(signed, total=8)) == "total 9 and 8"
    assert signed.digest({}, b"i" * 32, 7) == CONTENT.digest({}, b"i" * 32, 7)
