import hashlib
import os
import signal
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace

import pytest

from fedmeta.chain.settle.journal import Journal, JournalView
from fedmeta.chain.settle.journal_rows import Campaign, SignedRecord, Transaction
from fedmeta.chain.settle.rounds import encode
from fedmeta.errors import RunError, UsageError
from tests import processes
from tests.chain.settle.rounds import synthetic_round, synthetic_rounds

CAMPAIGN = Campaign(b"c" * 32, b"r" * 32, round_cap=10**6, budget=10**8)


def record(first, last, **changes):
    roots = dict.fromkeys(("rewards_root", "contributions_root", "model", "evidence"), b"x" * 32)
    values = roots | {"total": 5, "ledger": "0x1", "epoch": 0, "signatures": b"s"} | changes
    return SignedRecord(first, last, **values)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "chain" / "journal.sqlite"


@pytest.fixture
def journal(path):
    journal = Journal(path)
    journal.found(CAMPAIGN)
    yield journal
    journal.close()


def reopened(journal):
    journal.close()
    return JournalView(journal.path)


def test_what_was_frozen_is_there_after_reopening(journal):
    rounds = synthetic_rounds(4)
    journal.freeze(rounds[:3])
    journal.freeze(rounds[3:])
    view = reopened(journal)
    assert view.frozen == 4
    assert view.contents(1, 4) == [encode(r) for r in rounds]
    assert view.campaign == CAMPAIGN


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_only_the_user_can_read_it_whatever_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        with closing(Journal(tmp_path / "chain" / "journal.sqlite")) as journal:
            journal.found(CAMPAIGN)
            modes = {path.name: path.stat().st_mode & 0o777 for path in journal.path.parent.iterdir()}
    finally:
        os.umask(before)
    files = [f"journal.sqlite{end}" for end in ("", "-shm", "-wal", ".lock")]
    assert modes == dict.fromkeys(files, 0o600)
    assert (tmp_path / "chain").stat().st_mode & 0o777 == 0o700


def test_freezing_equal_rounds_again_changes_nothing(journal):
    journal.freeze(synthetic_rounds(4))
    journal.freeze(synthetic_rounds(5, first=2))
    assert journal.frozen == 5


def test_a_frozen_round_never_changes(journal):
    journal.freeze(synthetic_rounds(2))
    other = replace(synthetic_round(2), model=b"m" * 32)
    with pytest.raises(RunError, match="round 2 was frozen with other results"):
        journal.freeze([other, synthetic_round(3)])
    assert journal.frozen == 2, "all or none"
    assert journal.contents(2, 2) == [encode(synthetic_round(2))]


def test_no_round_is_left_out(journal):
    journal.freeze(synthetic_rounds(2))
    with pytest.raises(RunError, match="round 4 cannot be frozen: round 3 comes next"):
        journal.freeze([synthetic_round(4)])


def test_a_new_signature_takes_the_place_of_the_records_it_overlaps(journal):
    for first, last in ((1, 2), (3, 3), (4, 6)):
        journal.sign(record(first, last))
    journal.adopt(record(2, 4, mined=True))
    assert [(r.first, r.last, r.mined) for r in journal.records()] == [(2, 4, True)]


def test_recorded_follows_the_chain_forward_and_back(journal):
    for first, last in ((1, 2), (3, 3), (4, 6)):
        journal.sign(record(first, last))
    journal.recorded_through(6)
    assert journal.recorded == 6
    journal.recorded_through(3)
    assert journal.recorded == 3
    assert [r.mined for r in journal.records()] == [True, True, False]


def test_transactions_of_an_action_come_back_in_order_with_their_state(journal):
    first = Transaction(b"1" * 32, "fund", "0xs", 7, b"raw")
    second = replace(first, hash=b"2" * 32, nonce=8)
    journal.add(first)
    journal.add(second)
    journal.add(first)
    journal.mark(first, "dropped")
    journal.mined(second, b"b" * 32, 12)
    mined = replace(second, state="mined", block_hash=b"b" * 32, block_number=12)
    assert journal.transactions("fund") == [replace(first, state="dropped"), mined]
    assert journal.pending() == [mined]
    assert journal.transactions("else") == []


def test_steps_are_announced_before_and_after(path):
    seen = []
    journal = Journal(path, seen.append)
    journal.freeze(synthetic_rounds(1))
    journal.sign(record(1, 1))
    journal.close()
    assert seen == ["before freeze", "after freeze", "before sign", "after sign"]


def test_one_process_at_a_time(journal):
    with pytest.raises(UsageError, match="open already"):
        Journal(journal.path)
    code = "import sys, pathlib, fedmeta.chain.settle.journal as j; j.Journal(pathlib.Path(sys.argv[1]))"
    other = processes.run([sys.executable, "-c", code, str(journal.path)])
    assert "in use by another process" in other.stderr.splitlines()[-1]
    journal.close()
    Journal(journal.path).close()


def test_a_killed_holder_leaves_no_lock_though_its_child_lives(path, tmp_path):
    code = f"""
import os, signal, sys, time
from pathlib import Path
from fedmeta.chain.settle.journal import Journal
journal = Journal(Path({str(path)!r}))
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    holder = processes.Popen([sys.executable, "-c", code], stdout=processes.PIPE, text=True)
    child = int(holder.stdout.readline())
    holder.wait()
    try:
        Journal(path).close()
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_it_can_be_read_while_it_is_written(journal):
    view = JournalView(journal.path)
    journal.freeze(synthetic_rounds(2))
    assert view.frozen == 2
    view.close()


def test_no_journal_to_read_is_said(path):
    with pytest.raises(UsageError, match="there is no journal at"):
        JournalView(path)


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "garbage":
        data = bytearray(b"not a database, not at all" * 400)
    elif how == "cut":
        data = data[: len(data) // 2]
    elif how == "pages":
        data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["garbage", "cut", "pages"])
@pytest.mark.parametrize("kind", [Journal, JournalView])
def test_a_damaged_file_is_one_clear_line(journal, how, kind):
    journal.freeze(synthetic_rounds(40))
    journal.close()
    damage(journal.path, how)
    with pytest.raises(RunError, match=r"journal\.sqlite: the journal is damaged") as error:
        kind(journal.path)
    assert "\n" not in str(error.value)


def test_a_round_whose_bytes_rotted_is_named(journal):
    journal.freeze(synthetic_rounds(2))
    journal.close()
    data = journal.path.read_bytes()
    update = synthetic_round(2).contributions[1].update
    assert data.count(update) == 1
    journal.path.write_bytes(data.replace(update, update[:-1] + b"!"))
    with pytest.raises(RunError, match="round 2 is not what was frozen"):
        JournalView(journal.path).contents(1, 2)


def test_a_killed_step_leaves_all_of_it_or_nothing(path):
    code = f"""
import os, signal, sys
from pathlib import Path
from fedmeta.chain.settle.journal import Journal
from tests.chain.settle.rounds import synthetic_rounds
def kill(step):
    if step == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)
Journal(Path({str(path)!r}), kill).freeze(synthetic_rounds(9))
"""
    for step, frozen in (("before freeze", 0), ("after freeze", 9)):
        child = processes.run([sys.executable, "-c", code, step])
        assert child.returncode == -signal.SIGKILL
        view = JournalView(path)
        assert view.frozen == frozen
        view.close()


@pytest.mark.parametrize("units", [2**63 - 1, 2**63, 10**19, 2**128 - 2])
def test_amounts_of_any_size_come_back(path, units):
    journal = Journal(path)
    journal.found(replace(CAMPAIGN, round_cap=units, budget=units))
    journal.sign(record(1, 2, total=units))
    journal.note("budget", budget=units - 1)
    view = reopened(journal)
    assert view.campaign == replace(CAMPAIGN, round_cap=units, budget=units - 1)
    assert view.records() == [record(1, 2, total=units)]


FORMAT_1 = """
CREATE TABLE campaign (
    only_one INTEGER PRIMARY KEY CHECK (only_one = 1),
    campaign BLOB NOT NULL, run BLOB NOT NULL, round_cap INTEGER NOT NULL, budget INTEGER NOT NULL,
    chain_id INTEGER, genesis BLOB, terms TEXT, token TEXT, ledger TEXT, registry TEXT, code BLOB,
    block INTEGER NOT NULL DEFAULT 0, epoch INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE rounds (round INTEGER PRIMARY KEY, digest BLOB NOT NULL, content BLOB NOT NULL);
CREATE TABLE records (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL,
    rewards_root BLOB NOT NULL, contributions_root BLOB NOT NULL, model BLOB NOT NULL,
    evidence BLOB NOT NULL, total INTEGER NOT NULL,
    ledger TEXT NOT NULL, epoch INTEGER NOT NULL, signatures BLOB NOT NULL, mined INTEGER NOT NULL
);
CREATE TABLE transactions (
    hash BLOB PRIMARY KEY, action TEXT NOT NULL, sender TEXT NOT NULL, nonce INTEGER NOT NULL,
    raw BLOB NOT NULL, state TEXT NOT NULL, block_hash BLOB, block_number INTEGER
);
CREATE TABLE stakes (account TEXT PRIMARY KEY, evidence BLOB);
CREATE INDEX transactions_by_action ON transactions (action);
PRAGMA user_version = 1;
"""


@pytest.fixture
def old(path):
    """A journal of format 1, with a campaign, a round, two records and a transaction."""
    path.parent.mkdir()
    content = encode(synthetic_round(1))
    with closing(sqlite3.connect(path)) as db:
        db.executescript(FORMAT_1)
        db.execute(
            "INSERT INTO campaign VALUES (1, ?, ?, 1000000, 9223372036854775807, "
            "31337, x'aa', '{}', '0x1', '0x2', NULL, x'bb', 7, 1)",
            (b"c" * 32, b"r" * 32),
        )
        db.execute("INSERT INTO rounds VALUES (1, ?, ?)", (hashlib.sha256(content).digest(), content))
        for first, total in ((1, 5), (2, 2**63 - 1)):
            db.execute(
                "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, '0x1', 0, x'73', 1)",
                (first, first, *[b"x" * 32] * 4, total),
            )
        db.execute(
            "INSERT INTO transactions VALUES (x'11', 'fund', '0xs', 7, x'22', 'sent', NULL, NULL)"
        )
        db.commit()
    return path


@pytest.mark.parametrize("kind", [JournalView, Journal])
def test_a_journal_of_the_first_format_is_read_as_it_was_written(old, kind):
    journal = kind(old)
    expected = Campaign(
        b"c" * 32, b"r" * 32, 10**6, 2**63 - 1, 31337, b"\xaa", "{}", "0x1", "0x2", None, b"\xbb", 7, 1
    )
    assert journal.campaign == expected
    assert journal.records() == [
        record(1, 1, total=5, mined=True),
        record(2, 2, total=2**63 - 1, mined=True),
    ]
    assert journal.transactions("fund") == [Transaction(b"\x11", "fund", "0xs", 7, b"\x22", "sent")]
    assert journal.rounds(1, 1)[0].reward == synthetic_round(1).reward
    journal.close()


def test_only_who_writes_a_journal_of_the_first_format_brings_it_to_the_next(old):
    before = old.read_bytes()
    JournalView(old).close()
    assert old.read_bytes() == before
    journal = Journal(old)
    journal.note("budget", budget=2**100)
    view = reopened(journal)
    assert view.campaign.budget == 2**100
    assert view.records()[1].total == 2**63 - 1


def test_a_journal_of_a_format_to_come_is_refused(journal):
    journal.close()
    with closing(sqlite3.connect(journal.path)) as db:
        db.execute("PRAGMA user_version = 3")
    for kind in (Journal, JournalView):
        with pytest.raises(UsageError, match="a journal of format 3, and this fedmeta reads 2"):
            kind(journal.path)
