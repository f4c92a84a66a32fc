"""An audit finds each manipulation and names exactly that one."""

import hashlib
import json
import re
import sqlite3
from dataclasses import replace

import pytest

from fedmeta.chain.audit import audit
from fedmeta.chain.audit.files import RunFiles, model_hash
from fedmeta.chain.audit.findings import Finding, first_failure, verdict
from fedmeta.chain.chain import open_chain
from fedmeta.chain.keys import open_client_keys
from fedmeta.chain.merkle import reward_leaf, rewards_tree
from fedmeta.chain.options import ChainOptions, StakingOptions
from fedmeta.chain.settle.deployment import attach
from fedmeta.chain.settle.journal import JournalView
from fedmeta.chain.settle.journal_rows import digest, rows_of
from fedmeta.chain.settle.recording import attached
from fedmeta.chain.settle.settlement import Settlement
from fedmeta.errors import UsageError
from tests.chain.audit.runs import BUDGET, make_run, save_checkpoint, state, state_hash
from tests.chain.settle.helpers import earned, keys_of, record_as_committee, run_id, send, settle
from tests.chain.settle.rounds import POT, account

ALL = [
    *("run", "rounds in the logs", "clients' signatures", "checkpoints", "records in the journal"),
    *("contracts", "records on the chain", "committee's signatures", "awards", "claims"),
    *("tokens", "escrow", "stakes"),
]


@pytest.fixture
def options(anvil):
    return ChainOptions(provider=anvil, pot=1)


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def rounds(run, options):
    """A finished run: five rounds, recorded and paid."""
    rounds = make_run(run, options)
    assert settle(run / "chain", options, rounds).complete
    return rounds


def failure(run, options):
    findings = audit(run, options)
    failed = first_failure(findings)
    assert failed is not None
    assert "\n" not in failed.detail
    return failed.what, failed.detail


def client(number):
    return f"round 2, client {number}"


def test_a_finished_run_agrees_in_every_line(run, options, rounds):
    findings = audit(run, options)
    assert [f.what for f in findings] == ALL
    assert [f.detail for f in findings if not f.ok] == []
    details = {f.what: f.detail for f in findings}
    total = sum(earned(rounds).values())
    assert details["rounds in the logs"] == "5 rounds, 16 contributions, as frozen"
    assert details["clients' signatures"] == "16 update signatures of 4 accounts"
    assert details["checkpoints"] == "2 checkpoints (rounds 4, 5)"
    assert details["records on the chain"] == "5 records of 5 rounds"
    assert details["awards"] == f"{total} units to 4 accounts"
    assert details["claims"] == f"{total} units claimed, 0 unclaimed"
    escrow = BUDGET + 1 - total
    assert details["escrow"] == (
        f"{BUDGET + 1} units funded = {total} paid + {escrow} in escrow + 0 taken back"
    )


def test_a_run_with_stakes_agrees_as_well(run, anvil):
    staking = StakingOptions(enabled=True, stake=10)
    options = ChainOptions(provider=anvil, pot=1, staking=staking)
    rounds = make_run(run, options)
    accounts = [c.account for c in rounds[0].contributions]
    with Settlement(run / "chain", options, run_id(run / "chain"), BUDGET) as settlement:
        settlement.stake(accounts)
        settlement.slash(accounts[0], b"\x01" * 32)
        settlement.freeze(rounds)
        settlement.start()
        assert settlement.finish(60).complete
    findings = audit(run, options)
    assert [f.detail for f in findings if not f.ok] == []
    assert findings[-1].detail == "35000000 units of 4 accounts", "four of ten, less half of one"


@pytest.mark.parametrize("versions", [{"fedmeta": "9.1"}, ["fedmeta"], None])
def test_logs_of_a_later_format_are_not_audited(tmp_path, versions):
    info = {"run_id": "00" * 32, "format": 3, "versions": versions}
    (tmp_path / "run.json").write_text(json.dumps(info))
    with pytest.raises(
        UsageError, match=r"of format 3, written by fedmeta (9\.1|\?): .*; audit them with"
    ):
        RunFiles(tmp_path)


@pytest.mark.parametrize("found", [None, 1, 2])
def test_logs_of_this_format_and_of_earlier_ones_are_audited(tmp_path, found):
    (tmp_path / "run.json").write_text(json.dumps({"run_id": "ab" * 32, "format": found}))
    assert RunFiles(tmp_path).run == b"\xab" * 32


class TestFiles:
    def tampered(self, run, number, name, value):
        """Change one field of a line of ``clients.jsonl``; return the old value."""
        path = run / "clients.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        for index, line in enumerate(lines):
            row = json.loads(line)
            if (row["round"], row["client"]) == (2, number):
                before, row[name] = row[name], value
                lines[index] = json.dumps(row) + "\n"
        path.write_text("".join(lines))
        return before

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("reward", 999_999),
            ("score", 0.5),
            ("tasks", 77),
            ("update", "ab" * 32),
            ("signature", "cd" * 65),
            ("account", "0x" + "12" * 20),
        ],
    )
    def test_a_changed_field_is_named_with_both_values(self, run, options, rounds, name, value):
        before = self.tampered(run, 3, name, value)
        what, detail = failure(run, options)
        assert what == "rounds in the logs"
        expected = f"{client(3)}: {name} is {value} in clients.jsonl and {before} in the journal"
        assert detail.lower() == expected.lower()

    def test_a_changed_byte_outside_our_fields(self, run, options, rounds):
        self.tampered(run, 9, "reason", "something else")
        what, detail = failure(run, options)
        assert (what, detail[:28]) == ("rounds in the logs", "round 2: hash of its lines i")

    def test_a_client_that_was_refused_and_is_admitted_now(self, run, options, rounds):
        self.tampered(run, 9, "admitted", True)
        what, detail = failure(run, options)
        assert what == "rounds in the logs"
        assert detail == f"{client(9)} was admitted in clients.jsonl and is not in the journal"

    def test_a_line_that_is_missing(self, run, options, rounds):
        path = run / "clients.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if '"round": 2, "client": 1' not in line))
        assert failure(run, options)[1] == (
            f"{client(1)} is in the journal and was not admitted in clients.jsonl"
        )

    def test_a_damaged_line(self, run, options, rounds):
        path = run / "clients.jsonl"
        path.write_bytes(path.read_bytes().replace(b'{"round": 1, "client": 1', b'"round": 1, "cl', 1))
        assert failure(run, options) == ("rounds in the logs", "clients.jsonl, line 2 is damaged")

    @pytest.mark.parametrize("value", [None, "many", {}])
    def test_a_malformed_field(self, run, options, rounds, value):
        self.tampered(run, 1, "client", value)
        what, detail = failure(run, options)
        assert what == "rounds in the logs"
        assert detail.startswith("malformed: ")

    def test_a_changed_model_hash(self, run, options, rounds):
        path = run / "metrics.jsonl"
        path.write_text(path.read_text().replace(rounds[2].model.hex(), "ab" * 32))
        assert failure(run, options) == (
            "rounds in the logs",
            f"round 3: model is {'ab' * 32} in metrics.jsonl and {rounds[2].model.hex()} in the journal",
        )

    def test_a_changed_tensor_of_a_checkpoint(self, run, options, rounds):
        tensors = state(5)
        tensors["layer.bias"][1] += 1e-6
        save_checkpoint(run, 5, tensors)
        what, detail = failure(run, options)
        assert what == "checkpoints"
        expected = (
            f"round 5: model is [0-9a-f]{{64}} in round-000005.safetensors and {rounds[4].model.hex()} "
        )
        assert re.match(expected, detail)

    def test_a_checkpoint_that_is_cut_off(self, run, options, rounds):
        path = run / "checkpoints" / "round-000005.safetensors"
        path.write_bytes(path.read_bytes()[:-5])
        what, detail = failure(run, options)
        assert (what, detail[:43]) == ("checkpoints", "round-000005.safetensors cannot be read: Er")

    def test_the_run_of_another_journal(self, run, options, rounds):
        info = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(info | {"run_id": "00" * 32}))
        what, detail = failure(run, options)
        assert what == "run"
        assert detail.startswith(f"the run: id is 0x{'00' * 32} in run.json and 0x")

    def test_rounds_that_were_never_frozen(self, run, options):
        rounds = make_run(run, options)
        assert settle(run / "chain", options, rounds[:3]).complete
        assert failure(run, options) == (
            "rounds in the logs",
            "rounds 4 to 5 are in clients.jsonl and were never frozen",
        )

    def test_a_model_hash_is_what_the_format_says(self, run, options, rounds):
        found = model_hash(run / "checkpoints" / "round-000004.safetensors")
        assert found == state_hash(4)


def test_an_update_signed_by_another_client(run, options):
    """Frozen as it stands in the files, and yet not signed by the account that is paid."""
    rounds = make_run(run, options)
    path = run / "clients.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    one, two = lines[0], lines[1]
    one["signature"], two["signature"] = two["signature"], one["signature"]
    text = [json.dumps(line).encode() + b"\n" for line in lines]
    path.write_bytes(b"".join(text))
    c = rounds[0].contributions
    swapped = (replace(c[0], signature=c[1].signature), replace(c[1], signature=c[0].signature))
    evidence = hashlib.sha256(b"".join(text[:5])).digest()
    rounds[0] = replace(rounds[0], evidence=evidence, contributions=(*swapped, *c[2:]))
    assert settle(run / "chain", options, rounds).complete
    what, detail = failure(run, options)
    assert what == "clients' signatures"
    expected = f"round 1, client 0: signer is 0x[0-9a-fA-F]{{40}} in the signature and {c[0].account} "
    assert re.match(expected, detail)


class TestJournal:
    def change(self, run, query, *values):
        with sqlite3.connect(run / "chain" / "journal.sqlite") as db:
            assert db.execute(query, values).rowcount == 1
        db.close()

    def test_a_changed_round(self, run, options, rounds):
        """By an attacker who also updates the digest."""
        frozen, c = rounds[1], rounds[1].contributions[1]
        richer = (frozen.contributions[0], replace(c, reward=c.reward + 5), *frozen.contributions[2:])
        rows = rows_of(replace(frozen, contributions=richer))
        changed = digest((2, frozen.model, frozen.evidence), rows)
        query = "UPDATE contributions SET reward = ? WHERE round = 2 AND client = 1"
        self.change(run, query, str(c.reward + 5))
        self.change(run, "UPDATE rounds SET digest = ? WHERE round = 2", changed)
        assert failure(run, options) == (
            "rounds in the logs",
            f"{client(1)}: reward is {c.reward} in clients.jsonl and {c.reward + 5} in the journal",
        )

    def test_a_changed_byte_of_a_round(self, run, options, rounds):
        self.change(run, "UPDATE contributions SET tasks = tasks + 1 WHERE round = 2 AND client = 0")
        what, detail = failure(run, options)
        assert what == "rounds in the logs"
        assert "the journal is damaged (round 2 is not what was frozen)" in detail

    def test_a_changed_root(self, run, options, rounds):
        self.change(run, "UPDATE records SET rewards_root = ? WHERE first = 3", b"\x01" * 32)
        what, detail = failure(run, options)
        assert what == "records in the journal"
        expected = (
            f"rounds 3 to 3: in the journal's record and its rounds rewards root 0x{'01' * 32} and"
        )
        assert detail.startswith(expected)

    def test_a_changed_signature(self, run, options, rounds):
        self.change(run, "UPDATE records SET signatures = substr(signatures, 1, 130) WHERE first = 3")
        assert failure(run, options) == (
            "records in the journal",
            "rounds 3 to 3: 2 members signed; 3 have to",
        )

    def test_a_file_that_is_not_a_journal(self, run, options, rounds):
        (run / "chain" / "journal.sqlite").write_bytes(b"garbage" * 1000)
        what, detail = failure(run, options)
        assert what == "journal"
        assert "the journal is damaged" in detail

    def test_a_missing_journal(self, run, options, rounds):
        (run / "chain" / "journal.sqlite").unlink()
        with pytest.raises(UsageError, match="there is no journal at"):
            audit(run, options)


class TestChain:
    def test_an_unreachable_chain_is_reported_after_the_files(self, run, options, rounds):
        away = options.model_copy(update={"provider": "http://127.0.0.1:9"})
        findings = audit(run, away)
        assert [f.what for f in findings] == [*ALL[:5], "chain"]
        assert [f.ok for f in findings] == [True] * 5 + [None]
        assert verdict(findings) is None
        differs = Finding(False, "records", "")
        assert first_failure([*findings, differs]) == differs
        assert verdict([*findings, differs]) is False

    def test_rounds_that_wait(self, run, options):
        rounds = make_run(run, options)
        batched = options.model_copy(update={"batch": 3})
        with Settlement(run / "chain", batched, run_id(run / "chain"), BUDGET) as settlement:
            settlement.freeze(rounds)
            settlement.start()
            while settlement.journal.recorded < 3:
                pass
        assert failure(run, options) == (
            "records on the chain",
            "rounds 4 to 5 are frozen and not on the chain yet: `fedmeta resume` catches up",
        )

    def test_another_ledger_than_the_journals(self, run, options, rounds, tmp_path):
        other = tmp_path / "other"
        assert settle(other / "chain", options, make_run(other, options)).complete
        theirs = JournalView(other / "chain" / "journal.sqlite").campaign
        TestJournal().change(run, "UPDATE campaign SET ledger = ?", theirs.ledger)
        what, detail = failure(run, options)
        assert what == "contracts"
        assert detail.startswith(f"the ledger's campaign is {theirs.campaign.hex()}, not ")

    def test_a_false_record_of_a_rogue_committee(self, run, options):
        """It awards itself what others earned; everything else is correct."""
        rounds = make_run(run, options)
        never = options.model_copy(update={"claim": "never"})
        assert settle(run / "chain", never, rounds[:4]).complete
        thief = account(666)
        with Settlement(run / "chain", never, run_id(run / "chain"), BUDGET) as settlement:
            settlement.freeze(rounds)
        with attached(run / "chain", options) as recording:
            content = recording.journal.content(5, 5)
            tree = rewards_tree([(thief, content.total), (account(1), 1)])
            false = replace(content, rewards_root=tree.root)
            record_as_committee(recording.deployed, keys_of(run / "chain", options), false)
        what, detail = failure(run, options)
        assert what == "records on the chain"
        true = "0x" + content.rewards_root.hex()
        assert detail == (
            f"rounds 5 to 5: on the chain and in the journal rewards root 0x{tree.root.hex()} and {true}"
        )
        # And it makes use of it.
        with open_chain(options, run) as chain:
            deployed = attach(JournalView(run / "chain" / "journal.sqlite"), chain)
            ledger, keys = deployed.ledger, keys_of(run / "chain", options)
            proof = tree.proof(reward_leaf(thief, content.total))
            data = ledger.data("claim", 5, thief, content.total, proof)
            assert send(chain, keys.sponsor, ledger.address, data)["status"] == "0x1"
        failed = {f.what: f.detail for f in audit(run, options) if not f.ok}
        assert failed["claims"] == (
            f"{thief.lower()} was paid {content.total} units and contributed nothing"
        )
        assert set(failed) == {"records on the chain", "claims", "escrow"}

    def test_an_account_that_claimed_more_than_its_award(self, run, options):
        rounds = make_run(run, options)
        never = options.model_copy(update={"claim": "never"})
        assert settle(run / "chain", never, rounds[:4]).complete
        with Settlement(run / "chain", never, run_id(run / "chain"), BUDGET) as settlement:
            settlement.freeze(rounds)
        lucky = rounds[0].contributions[2].account
        with attached(run / "chain", options) as recording:
            content = recording.journal.content(5, 5)
            awarded = recording.journal.rewards(5)
            more = awarded | {lucky: awarded[lucky] + 1}
            tree = rewards_tree(more.items())
            keys = keys_of(run / "chain", options)
            record_as_committee(recording.deployed, keys, replace(content, rewards_root=tree.root))
            ledger = recording.ledger
            proof = tree.proof(reward_leaf(lucky, more[lucky]))
            data = ledger.data("claim", 5, lucky, more[lucky], proof)
            assert send(ledger.chain, keys.sponsor, ledger.address, data)["status"] == "0x1"
        failed = {f.what: f.detail for f in audit(run, options) if not f.ok}
        assert failed["claims"] == (
            f"client 2 ({lucky}): claimed {more[lucky]} units, and was awarded {awarded[lucky]}"
        )

    def test_tokens_that_participants_spend_are_followed(self, run, options, rounds):
        keys = open_client_keys(options, 31337, run_id(run / "chain"))
        with open_chain(options, run) as chain:
            deployed = attach(JournalView(run / "chain" / "journal.sqlite"), chain)
            spender = keys.signer(1)
            sponsor = keys_of(run / "chain", options).sponsor
            send(chain, sponsor, spender.address, b"", 10**18)
            data = deployed.token.data("transfer", account(5), 100)
            assert send(chain, spender, deployed.token.address, data)["status"] == "0x1"
        assert [f.detail for f in audit(run, options) if not f.ok] == []

    def test_an_extra_transfer_to_the_escrow_is_not_a_difference(self, run, options, rounds):
        with open_chain(options, run) as chain:
            deployed = attach(JournalView(run / "chain" / "journal.sqlite"), chain)
            reserve = deployed.ledger.call("reserve")
            data = deployed.token.data("transfer", reserve, POT)
            sponsor = keys_of(run / "chain", options).sponsor
            assert send(chain, sponsor, deployed.token.address, data)["status"] == "0x1"
        findings = audit(run, options)
        assert [f.detail for f in findings if not f.ok] == []
        assert f"units funded + {POT} given = " in findings[-2].detail


def test_a_missing_run_is_reported(tmp_path, options):
    with pytest.raises(UsageError, match="no run folder at"):
        audit(tmp_path, options)
