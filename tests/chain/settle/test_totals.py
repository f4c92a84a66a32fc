import hashlib
from dataclasses import replace

import pytest

from fedmeta.chain.merkle import EMPTY_ROOT, contributions_tree, rewards_tree
from fedmeta.chain.settle.rounds import Content, Totals, content_of, encode, range_evidence
from tests.chain.settle.rounds import account, synthetic_round

ONE, TWO = synthetic_round(1), synthetic_round(2)
CONTENTS = [encode(ONE), encode(TWO)]


def totals(*contents):
    found = Totals()
    found.add(contents)
    return found


def test_rewards_add_up_over_rounds():
    expected = {account(c): ONE.contributions[c].reward + TWO.contributions[c].reward for c in range(4)}
    found = totals(*CONTENTS)
    assert {a.lower(): units for a, units in found.by_account().items()} == expected
    assert found.total == 2_000_000, "two pots"
    assert found.round == 2


def test_an_account_that_earned_nothing_has_no_leaf():
    nothing = replace(ONE.contributions[0], reward=0)
    found = totals(encode(replace(ONE, contributions=(nothing, *ONE.contributions[1:]))))
    assert account(0) not in {a.lower() for a in found.by_account()}


def test_a_record_has_the_trees_of_its_rounds_and_the_hashes_of_its_last():
    found = content_of(CONTENTS[1:], totals(*CONTENTS))
    rewards = [(account(c), ONE.contributions[c].reward + TWO.contributions[c].reward) for c in range(4)]
    leaves = [(c.account, 2, c.tasks, c.update, c.reward) for c in TWO.contributions]
    evidence = hashlib.sha256(TWO.evidence).digest()
    roots = rewards_tree(rewards).root, contributions_tree(leaves).root
    assert found == Content(2, 2, *roots, TWO.model, evidence, 2_000_000)


def test_the_evidence_of_a_range_is_the_hash_of_its_rounds_evidence_in_order():
    expected = hashlib.sha256(ONE.evidence + TWO.evidence).digest()
    assert range_evidence([ONE.evidence, TWO.evidence]) == expected
    assert content_of(CONTENTS, totals(*CONTENTS)).evidence == expected


def test_rounds_that_pay_nobody_have_empty_trees():
    empty = encode(replace(ONE, contributions=()))
    found = content_of([empty], totals(empty))
    assert (found.rewards_root, found.contributions_root, found.total) == (EMPTY_ROOT, EMPTY_ROOT, 0)


def test_totals_of_another_round_are_refused():
    with pytest.raises(ValueError, match="totals up to round 2 do not fit"):
        content_of(CONTENTS[:1], totals(*CONTENTS))


def test_a_difference_names_the_first_field_and_both_values():
    one = content_of(CONTENTS[:1], totals(CONTENTS[0]))
    assert one.differs(one) is None
    other = replace(one, model=b"\x01" * 32, total=5)
    assert one.differs(other) == f"model 0x{ONE.model.hex()} and 0x{'01' * 32}"
