import hashlib
import os
import signal
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace

import pytest

from fedmeta.chain.merkle import EMPTY_ROOT, contributions_tree, rewards_tree
from fedmeta.chain.settle.journal import Journal, JournalView
from fedmeta.chain.settle.journal_rows import Campaign, Content, SignedRecord, Transaction
from fedmeta.errors import RunError, UsageError
from tests import processes
from tests.chain.settle.rounds import account, synthetic_round, synthetic_rounds

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


def same(a, b):
    """Equal, but for how the letters of an address are written."""
    return str(a).lower() == str(b).lower()


def reopened(journal):
    journal.close()
    return JournalView(journal.path)


def test_frozen_rounds_are_there_after_reopening(journal):
    rounds = synthetic_rounds(4)
    journal.freeze(rounds[:3])
    journal.freeze(rounds[3:])
    view = reopened(journal)
    assert view.frozen == 4
    assert same(list(view.rounds()), rounds)
    assert same(list(view.rounds(2, 3)), rounds[1:3])
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
    assert same(list(journal.rounds(2, 2)), [synthetic_round(2)])


def test_no_round_is_left_out(journal):
    journal.freeze(synthetic_rounds(2))
    with pytest.raises(RunError, match="round 4 cannot be frozen: round 3 comes next"):
        journal.freeze([synthetic_round(4)])


def test_a_new_signature_takes_the_place_of_the_records_it_overlaps(journal):
    for first, last in ((1, 2), (3, 3), (4, 6)):
        journal.sign(record(first, last))
    journal.sign(record(2, 4, mined=True))
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
    assert journal.landed() == [mined]
    assert journal.transactions("else") == []


def test_steps_are_announced_before_and_after(path):
    seen = []
    journal = Journal(path, seen.append)
    journal.freeze(synthetic_rounds(1))
    journal.sign(record(1, 1))
    journal.close()
    assert seen == ["before freeze", "after freeze", "before sign", "after sign"]


def test_one_process_at_a_time(journal):
    with pytest.raises(UsageError, match="already open"):
        Journal(journal.path)
    code = "import sys, pathlib, fedmeta.chain.settle.journal as j; j.Journal(pathlib.Path(sys.argv[1]))"
    other = processes.run([sys.executable, "-c", code, str(journal.path)])
    assert "is open in another process (pid" in other.stderr.splitlines()[-1]
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


def test_a_missing_journal_is_reported(path):
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


def test_a_corrupt_round_is_named(journal):
    journal.freeze(synthetic_rounds(2))
    journal.close()
    data = journal.path.read_bytes()
    update = synthetic_round(2).contributions[1].update
    assert data.count(update) == 1
    journal.path.write_bytes(data.replace(update, update[:-1] + b"!"))
    with pytest.raises(RunError, match="round 2 is not what was frozen"):
        list(JournalView(journal.path).rounds(1, 2))


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


ONE, TWO = synthetic_round(1), synthetic_round(2)


@pytest.fixture
def frozen(journal):
    """A journal with rounds 1 to 7."""
    journal.freeze(synthetic_rounds(7))
    return journal


def test_rewards_add_up_over_rounds(frozen):
    expected = {account(c): ONE.contributions[c].reward + TWO.contributions[c].reward for c in range(4)}
    assert {a.lower(): units for a, units in frozen.rewards(2).items()} == expected
    assert frozen.rewards(3) == frozen.rewards(2), "round 3 was skipped"
    assert (frozen.awarded(2), frozen.awarded(7)) == (2_000_000, 6_000_000), "a pot a round"


def test_rewards_of_an_earlier_round_are_not_those_of_a_later_one(frozen):
    first, last = frozen.rewards(1), frozen.rewards(7)
    assert sum(last.values()) == 6_000_000
    assert frozen.rewards(1) == first
    assert frozen.rewards(7) == last


def test_an_account_that_earned_nothing_has_no_leaf(journal):
    nothing = replace(ONE.contributions[0], reward=0)
    journal.freeze([replace(ONE, contributions=(nothing, *ONE.contributions[1:]))])
    assert {a.lower() for a in journal.rewards(1)} == {account(1), account(2), account(3)}


def test_a_record_has_the_trees_of_its_rounds_and_the_hashes_of_its_last(frozen):
    rewards = [(account(c), ONE.contributions[c].reward + TWO.contributions[c].reward) for c in range(4)]
    leaves = [(c.account, 2, c.tasks, c.update, c.reward) for c in TWO.contributions]
    evidence = hashlib.sha256(TWO.evidence).digest()
    roots = rewards_tree(rewards).root, contributions_tree(leaves).root
    assert frozen.content(2, 2) == Content(2, 2, *roots, TWO.model, evidence, 2_000_000)


def test_the_evidence_of_a_range_is_the_hash_of_its_rounds_evidence_in_order(frozen):
    assert frozen.content(1, 2).evidence == hashlib.sha256(ONE.evidence + TWO.evidence).digest()


def test_rounds_without_payments_have_empty_trees(journal):
    journal.freeze([replace(ONE, contributions=())])
    found = journal.content(1, 1)
    assert (found.rewards_root, found.contributions_root, found.total) == (EMPTY_ROOT, EMPTY_ROOT, 0)


@pytest.mark.parametrize(("most", "last"), [(0, 2), (7, 3), (8, 4), (11, 4), (12, 5), (99, 7)])
def test_a_range_ends_before_it_has_too_many_contributions(frozen, most, last):
    """Four a round, none in round 3; the first round counts however many it has."""
    assert frozen.last_within(2, most) == last


def test_a_client_is_known_by_its_newest_account(journal):
    journal.freeze([ONE, replace(TWO, contributions=(replace(TWO.contributions[0], client=9),))])
    assert {a.lower(): client for a, client in journal.clients().items()} == {
        account(0): 9,
        account(1): 1,
        account(2): 2,
        account(3): 3,
    }
    assert journal.account("9").lower() == account(0)
    assert journal.account(account(2).upper().replace("X", "x")).lower() == account(2)
    with pytest.raises(UsageError, match="'0' has not contributed"):
        journal.account("0")


def test_more_rounds_than_are_read_at_once_come_in_order(journal):
    rounds = synthetic_rounds(451, clients=2)
    journal.freeze(rounds)
    assert [r.round for r in journal.rounds()] == list(range(1, 452))
    assert same(list(journal.rounds(199, 402)), rounds[198:402])
    assert sum(journal.rewards(451).values()) == sum(r.reward for r in rounds)


def test_a_row_that_is_missing_is_found(frozen):
    frozen.close()
    with closing(sqlite3.connect(frozen.path)) as db:
        db.execute("DELETE FROM contributions WHERE round = 4 AND client = 1")
        db.commit()
    with closing(JournalView(frozen.path)) as view:
        assert len(list(view.rounds(1, 3))) == 3
        for read in (lambda: view.rewards(5), lambda: view.content(5, 5), lambda: list(view.rounds(4))):
            with pytest.raises(RunError, match="round 4 is not what was frozen"):
                read()
