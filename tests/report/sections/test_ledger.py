"""The ledger section: from a run's files and a saved audit."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest
import tomli_w

from fedmeta.chain.settle.journal import Journal
from fedmeta.chain.settle.journal_rows import Transaction
from fedmeta.experiment import RunFolder
from fedmeta.experiment.saved_audit import audit
from fedmeta.report.read import read_run
from fedmeta.report.sections.ledger import Ledger, read_audit, read_journal


@pytest.fixture
def copy(chained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(chained, tmp_path / "copy"))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_audited_run(chained: Path) -> None:
    section = Ledger.of_run(read_run(chained))
    assert section is not None
    assert section.warning == ""
    assert "the run's files and the chain agree" in section.text
    facts = dict(section.facts)
    assert facts["Rounds recorded on the chain"] == "2 of 2 frozen"
    assert facts["Tokens awarded"] == "200"
    gas, findings = section.tables
    assert {row[0] for row in findings.rows} == {"agrees"}
    rows = {row[0]: row[1:] for row in gas.rows}
    listed = json.loads((chained / "chain" / "audit.json").read_text())["gas"]
    assert rows["all"][:2] == [len(listed), sum(one["gas"] for one in listed)]
    used = [one["gas"] for one in listed if one["action"].startswith("record ")]
    assert rows["record"][:2] == [len(used), sum(used)]
    assert min(one["gas"] for one in listed) > 21_000


def test_reading_leaves_no_trace(copy: Path) -> None:
    for left in copy.glob("chain/journal.sqlite-*"):
        left.unlink()
    before = tree(copy)
    assert read_journal(copy / "chain").recorded == 2
    assert tree(copy) == before


def test_a_journal_is_read_while_it_is_written(copy: Path) -> None:
    journal = Journal(copy / "chain" / "journal.sqlite")
    try:
        journal.stake(["0x" + "1" * 40])
        assert read_journal(copy / "chain").frozen == 2
    finally:
        journal.close()


def test_a_run_that_was_not_audited_says_how(copy: Path) -> None:
    (copy / "chain" / "audit.json").unlink()
    section = Ledger.of_run(read_run(copy))
    assert section is not None
    assert section.text.startswith(f"Not audited yet: `fedmeta chain audit {copy}`")
    (gas,) = section.tables
    assert gas.note == "Gas used is known after an audit."
    assert [row[2] for row in gas.rows] == [None] * len(gas.rows)


def test_an_audit_that_could_not_see_the_chain_is_not_a_disagreement(copy: Path) -> None:
    path = copy / "chain" / "audit.json"
    said = json.loads(path.read_text())
    said["findings"][-1] |= {"ok": None, "detail": "no node answers"}
    path.write_text(json.dumps(said | {"agrees": None}))
    section = Ledger.of_run(read_run(copy))
    assert section is not None
    assert "the chain could not be reached" in section.text
    assert "not checked" in {row[0] for row in section.tables[-1].rows}
    assert "agree" not in section.warning


def test_an_audit_that_disagrees_is_a_warning(copy: Path) -> None:
    log = copy / "clients.jsonl"
    log.write_text(log.read_text().replace('"tasks": 2', '"tasks": 3', 1))
    findings = audit(copy / "chain", RunFolder.open(copy).config.chain)
    assert not all(finding.ok for finding in findings)
    section = Ledger.of_run(read_run(copy))
    assert section is not None
    assert "they do not agree" in section.text
    assert "found a difference" in section.warning
    assert [row[0] for row in section.tables[1].rows].count("DIFFERS") >= 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 9}'])
def test_an_audit_of_another_version_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "audit.json").write_text(text)
    assert read_audit(tmp_path) is None


def test_a_damaged_journal_is_named(copy: Path) -> None:
    (copy / "chain" / "journal.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    problem = read_journal(copy / "chain").problem
    assert problem is not None
    assert "damaged" in problem
    section = Ledger.of_run(read_run(copy))
    assert section is not None
    assert "damaged" in section.warning


def test_stakes_are_those_of_the_journal_and_its_mined_transactions(copy: Path) -> None:
    """Clients 0 to 2 are to stake; the chain has mined what 0 and 1 put down, and the slash of 1."""
    config = tomllib.loads((copy / "config.toml").read_text())
    config["chain"]["staking"] |= {"enabled": True, "stake": 800, "slash_after": 3, "slash_share": 0.25}
    config["behaviours"] = [{"kind": "zero-update", "clients": [1]}]
    (copy / "config.toml").write_text(tomli_w.dumps(config))
    accounts = ["0x" + str(n) * 40 for n in range(3)]
    journal = Journal(copy / "chain" / "journal.sqlite")
    try:
        journal.stake(accounts)
        for number, (action, state) in enumerate(
            [
                (f"join {accounts[0]}", "final"),
                (f"join {accounts[1]}, nonce 2", "mined"),
                (f"join {accounts[2]}", "sent"),
                (f"slash {accounts[1].upper().replace('X', 'x')} {'ab' * 32}, nonce 0", "mined"),
                (f"slash {accounts[0]} {'cd' * 32}, nonce 0", "dropped"),
            ]
        ):
            journal.add(Transaction(bytes([number]) * 32, action, accounts[0], number, b"", state))
    finally:
        journal.close()
    run = read_run(copy)
    assert run.problem is None
    section = Ledger.of_run(run)
    assert section is not None
    table = next(one for one in section.tables if one.key == "stakes")
    tokens = ["tokens put down", "tokens lost", "tokens at stake"]
    assert table.columns == ["client", "behaviour", *tokens, "account"]
    assert [list(row[:5]) for row in table.rows] == [
        [0, "", 800, 0, 800],
        [1, "zero-update", 800, 200, 600],
        [2, "", 0, 0, 0],
    ]
    assert [row[5] for row in table.rows] == accounts
    assert table.note.startswith("A client loses 25% of its stake, once, after 3 refused updates")


@pytest.mark.parametrize(("logged", "said"), [(0, "0 of 0"), (1, "1 of 1"), (2, "2 of 2")])
def test_the_ledger_of_a_resumed_run_is_not_ahead_of_its_rounds(
    copy: Path, logged: int, said: str
) -> None:
    """The journal is read after the logs, and has two rounds by then."""
    info = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(info | {"status": "running"}))
    rows = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(rows[:logged]))
    with RunFolder(copy).locked():
        section = Ledger.of_run(read_run(copy))
    assert section is not None
    assert dict(section.facts)["Rounds recorded on the chain"] == f"{said} frozen"


def test_without_stakes_there_is_no_table_of_them(chained: Path) -> None:
    section = Ledger.of_run(read_run(chained))
    assert section is not None
    assert "stakes" not in [table.key for table in section.tables]


def test_a_run_without_a_chain_has_no_ledger(sinusoid: Path) -> None:
    assert Ledger.of_run(read_run(sinusoid)) is None
