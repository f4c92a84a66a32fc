"""Rounds are read back from their rows, and older journals are upgraded completely or not at all."""

import hashlib
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from fedmeta.chain.hashing import to_address
from fedmeta.chain.settle.journal import Journal, JournalView
from fedmeta.chain.settle.journal_rows import (
    Campaign,
    SignedRecord,
    Transaction,
    digest,
    is_digest,
    rows_of,
)
from fedmeta.chain.settle.store import DamagedJournalError, bring_up_to_date
from tests.chain.settle import old_journals
from tests.chain.settle.rounds import account, synthetic_round, synthetic_rounds

ROUND = synthetic_round(1)
FIRST = ROUND.contributions[0]


def changed(**changes):
    return replace(ROUND, contributions=(replace(FIRST, **changes), *ROUND.contributions[1:]))


def same(a, b):
    """Equal, but for how the letters of an address are written."""
    return str(a).lower() == str(b).lower()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.sqlite"


@pytest.mark.parametrize(
    "frozen",
    [
        ROUND,
        replace(ROUND, contributions=()),
        changed(score=None),
        changed(score=2.0),
        changed(score=-1e-300),
        changed(reward=2**63 - 1),
        changed(reward=2**128 - 1),
        changed(tasks=2**63 - 1),
    ],
)
def test_a_round_comes_back_from_its_rows(path, frozen):
    with closing(Journal(path)) as journal:
        journal.freeze([frozen])
        assert same(list(journal.rounds()), [frozen])


def test_a_score_of_minus_zero_is_frozen_as_zero(path):
    """SQLite does not keep the sign."""
    with closing(Journal(path)) as journal:
        journal.freeze([changed(score=-0.0)])
        journal.freeze([changed(score=-0.0)])
        assert str(next(journal.rounds()).contributions[0].score) == "0.0"


HEAD = (1, ROUND.model, ROUND.evidence)


@pytest.mark.parametrize(
    "change",
    [
        {"client": -1},
        {"tasks": 77},
        {"update": b"u" * 32},
        {"signature": b"s" * 65},
        {"score": 0.123},
        {"score": None},
        {"reward": FIRST.reward + 1},
        {"account": "0x" + "12" * 20},
    ],
)
def test_every_field_is_part_of_the_digest(change):
    assert digest(HEAD, rows_of(changed(**change))) != digest(HEAD, rows_of(ROUND))


def test_the_case_of_an_address_is_not_part_of_the_digest():
    upper = changed(account="0x" + FIRST.account[2:].upper())
    assert digest(HEAD, rows_of(upper)) == digest(HEAD, rows_of(ROUND))


def test_a_digest_over_the_whole_rows_as_python_writes_them_is_still_read(path):
    """So the first journals of this format have it."""
    with closing(Journal(path)) as journal:
        journal.freeze([ROUND])
    written = hashlib.sha256(repr((HEAD, rows_of(ROUND))).encode()).digest()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE rounds SET digest = ?", (written,))
    with closing(JournalView(path)) as journal:
        assert same(list(journal.rounds()), [ROUND])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("account", None),
        ("signature", "text"),
        ("update_hash", 7),
        ("update_hash", b"u" * 33),
        ("tasks", "1"),
    ],
)
def test_a_corrupt_value_of_any_type_does_not_match_the_digest(column, value):
    place = ("client", "account", "tasks", "update_hash", "signature", "score", "reward").index(column)
    rows = rows_of(ROUND)
    rotten = [(*rows[0][:place], value, *rows[0][place + 1 :]), *rows[1:]]
    assert is_digest(digest(HEAD, rows), HEAD, rows)
    assert not is_digest(digest(HEAD, rows), HEAD, rotten)


def record(round_, total):
    return SignedRecord(round_, round_, *[b"x" * 32] * 4, total, "0x1", 0, b"s", mined=True)


@pytest.mark.parametrize("kind", [JournalView, Journal])
@pytest.mark.parametrize(("version", "most"), [(1, 2**63 - 1), (2, 2**100)])
def test_a_journal_of_an_earlier_format_reads_the_same(path, kind, version, most):
    unscored = replace(synthetic_round(2), contributions=(replace(FIRST, score=None),))
    rounds = [ROUND, unscored, *synthetic_rounds(5, first=3)]
    old_journals.write(path, version, [old_journals.packed(r) for r in rounds])
    with closing(kind(path)) as journal:
        assert journal.campaign == Campaign(
            b"c" * 32, b"r" * 32, 10**6, most, 31337, b"\xaa", "{}", "0x1", "0x2", None, b"\xbb", 7, 1
        )
        assert journal.records() == [record(1, 5), record(2, most)]
        assert journal.transactions("fund") == [Transaction(b"\x11", "fund", "0xs", 7, b"\x22", "sent")]
        assert same(list(journal.rounds()), rounds)
        assert journal.clients() == {to_address(bytes.fromhex(account(c)[2:])): c for c in range(4)}


def test_rewards_that_had_wide_rows_come_back(path):
    wide = changed(reward=2**128 - 1)
    assert len(old_journals.packed(wide)) > len(old_journals.packed(ROUND))
    old_journals.write(path, 2, [old_journals.packed(wide)])
    with closing(JournalView(path)) as view:
        assert same(next(view.rounds()), wide)
        assert max(view.rewards(1).values()) == 2**128 - 1


def test_an_earlier_journal_is_upgraded_only_when_written(path):
    before = old_journals.write(path, 2, [old_journals.packed(ROUND)]).read_bytes()
    with closing(JournalView(path)) as view:
        assert view.frozen == 1
    assert path.read_bytes() == before
    with closing(Journal(path)) as journal:
        journal.freeze(synthetic_rounds(2))
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (3,)
        assert db.execute("SELECT count(*), count(DISTINCT round) FROM contributions").fetchone() == (
            8,
            2,
        )


@pytest.mark.parametrize("kind", [JournalView, Journal])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "in bytes that no version wrote"),
        (b"fedmeta round 9\n" + old_journals.packed(ROUND)[16:], "in bytes that no version wrote"),
        (old_journals.packed(ROUND)[:-1], "in bytes that no version wrote"),
        (old_journals.packed(ROUND)[:-149], "round 1 has 3 contributions of 4"),
    ],
)
def test_an_earlier_journal_with_a_broken_round_is_refused_and_left_as_it_is(path, kind, content, said):
    old_journals.write(path, 2, [content])
    with pytest.raises(DamagedJournalError, match=said):
        kind(path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
        assert db.execute("SELECT content FROM rounds").fetchone() == (content,)


def test_an_earlier_journal_with_a_corrupt_round_is_refused(path):
    old_journals.write(path, 2, [old_journals.packed(ROUND), old_journals.packed(synthetic_round(2))])
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE rounds SET content = zeroblob(9) WHERE round = 2")
        db.commit()
    copy = shutil.copy(path, path.with_name("copy.sqlite"))
    for kind in (JournalView, Journal):
        with pytest.raises(DamagedJournalError, match="round 2 is not what was frozen"):
            kind(path)
    with closing(sqlite3.connect(copy)) as before, closing(sqlite3.connect(path)) as after:
        assert list(after.iterdump()) == list(before.iterdump())


def test_a_journal_of_a_later_format_is_refused(path):
    Journal(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 4")
    for kind in (Journal, JournalView):
        with pytest.raises(Exception, match="a journal of format 4, and this fedmeta reads 3"):
            kind(path)


def test_a_file_that_was_upgraded_since_it_was_looked_at_stays_as_it_is(path):
    """Another process may do so between the look and the upgrade."""
    with closing(Journal(path)) as journal:
        journal.freeze([ROUND])
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        bring_up_to_date(db, path)
        assert not db.in_transaction
    with closing(Journal(path)) as journal:
        assert same(list(journal.rounds()), [ROUND])
