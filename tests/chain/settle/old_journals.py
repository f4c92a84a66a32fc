"""Writes journals in the formats of earlier versions."""

import hashlib
import sqlite3
import struct
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from fedmeta.chain.settle.journal_rows import FrozenRound

TABLES = """
CREATE TABLE campaign (
    only_one INTEGER PRIMARY KEY CHECK (only_one = 1),
    campaign BLOB NOT NULL, run BLOB NOT NULL, round_cap AMOUNT NOT NULL, budget AMOUNT NOT NULL,
    chain_id INTEGER, genesis BLOB, terms TEXT, token TEXT, ledger TEXT, registry TEXT, code BLOB,
    block INTEGER NOT NULL DEFAULT 0, epoch INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE rounds (round INTEGER PRIMARY KEY, digest BLOB NOT NULL, content BLOB NOT NULL);
CREATE TABLE records (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL,
    rewards_root BLOB NOT NULL, contributions_root BLOB NOT NULL, model BLOB NOT NULL,
    evidence BLOB NOT NULL, total AMOUNT NOT NULL,
    ledger TEXT NOT NULL, epoch INTEGER NOT NULL, signatures BLOB NOT NULL, mined INTEGER NOT NULL
);
CREATE TABLE transactions (
    hash BLOB PRIMARY KEY, action TEXT NOT NULL, sender TEXT NOT NULL, nonce INTEGER NOT NULL,
    raw BLOB NOT NULL, state TEXT NOT NULL, block_hash BLOB, block_number INTEGER
);
CREATE TABLE stakes (account TEXT PRIMARY KEY, evidence BLOB);
CREATE INDEX transactions_by_action ON transactions (action);
"""


def packed(frozen: FrozenRound) -> bytes:
    """The bytes of a round in formats 1 and 2; some rewards need wide rows."""
    wide = any(c.reward >= 2**63 for c in frozen.contributions)
    magic = b"fedmeta round 2\n" if wide else b"fedmeta round 1\n"
    data = magic + struct.pack(">QQ", frozen.round, len(frozen.contributions))
    data += frozen.model + frozen.evidence
    for c in frozen.contributions:
        score = struct.pack(">d", float("nan") if c.score is None else c.score)
        data += c.client.to_bytes(8) + bytes.fromhex(c.account[2:]) + c.tasks.to_bytes(8)
        data += c.update + c.signature + score + c.reward.to_bytes(16 if wide else 8)
    return data


def write(path: Path, version: int, rounds: Sequence[bytes]) -> Path:
    """Write a journal of an earlier format: a campaign, rounds, two records and a transaction."""
    path.parent.mkdir(exist_ok=True)
    most = 2**63 - 1 if version == 1 else 2**100
    amount = int if version == 1 else str
    with closing(sqlite3.connect(path)) as db:
        db.executescript(TABLES.replace("AMOUNT", "INTEGER" if version == 1 else "TEXT"))
        db.execute(
            "INSERT INTO campaign VALUES (1, ?, ?, ?, ?, 31337, "
            "x'aa', '{}', '0x1', '0x2', NULL, x'bb', 7, 1)",
            (b"c" * 32, b"r" * 32, amount(10**6), amount(most)),
        )
        for round_, content in enumerate(rounds, 1):
            digest = hashlib.sha256(content).digest()
            db.execute("INSERT INTO rounds VALUES (?, ?, ?)", (round_, digest, content))
        for first, total in ((1, 5), (2, most)):
            values = (first, first, *[b"x" * 32] * 4, amount(total))
            db.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, '0x1', 0, x'73', 1)", values)
        db.execute(
            "INSERT INTO transactions VALUES (x'11', 'fund', '0xs', 7, x'22', 'sent', NULL, NULL)"
        )
        db.execute(f"PRAGMA user_version = {version}")
        db.commit()
    return path
