"""The ledger as a run's files tell it, and what an audit leaves."""

import json
import shutil
from pathlib import Path

import pytest

from fedmeta.chain.settle.journal import Journal
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
    assert gas.note == "Gas is known after an audit."
    assert [row[2] for row in gas.rows] == [None] * len(gas.rows)


def test_an_audit_that_could_not_see_the_chain_is_no_disagreement(copy: Path) -> None:
    path = copy / "chain" / "audit.json"
    said = json.loads(path.read_text())
    said["findings"][-1] |= {"ok": None, "detail": "no node answers"}
    path.write_text(json.dumps(said | {"agrees": None}))
    section = Ledger.of_run(read_run(copy))
    assert section is not None
    assert "the chain could not be looked at" in section.text
    assert "not seen" in {row[0] for row in section.tables[-1].rows}
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
def test_an_audit_of_another_version_is_none(tmp_path: Path, text: str) -> None:
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


def test_a_run_without_a_chain_has_no_ledger(sinusoid: Path) -> None:
    assert Ledger.of_run(read_run(sinusoid)) is None
