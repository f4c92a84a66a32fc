"""Runs on every chain: all rounds are recorded, all clients paid, and learning is unaffected."""

import json
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import pytest
import tomli_w

from fedmeta.chain import start_node
from fedmeta.chain.audit import audit
from fedmeta.chain.chain import open_chain
from fedmeta.chain.node import NodeKind
from fedmeta.chain.options import MOST_TOKENS
from fedmeta.chain.settle.claims import claim
from fedmeta.chain.settle.journal import Journal
from fedmeta.chain.settle.journal_rows import Campaign
from fedmeta.chain.settle.status import status
from fedmeta.chain.settle.terms import Addresses
from fedmeta.errors import FedmetaError, UsageError
from fedmeta.experiment import Config, RunFolder, ledger, load_config, resume, run
from fedmeta.experiment.ledger import deploy
from fedmeta.experiment.planning import resolve
from fedmeta.experiment.result import Result
from tests.experiment.helpers import TINY, contents, fedmeta, start

CHAINS = ["embedded", "anvil", "ganache"]
SLOW_GANACHE = [*CHAINS[:2], pytest.param("ganache", marks=pytest.mark.slow)]
WHOLE = TINY | {"incentives": {"rule": "leave-one-out", "tasks": 4}}


def config(provider: str, rounds: int = 6, **chain: object) -> Config:
    return Config(**WHOLE | {"rounds": rounds, "chain": {"provider": provider, **chain}})  # type: ignore[arg-type]


def test_the_old_id_is_unchanged() -> None:
    """As the last version computed that gave it; keys that came since count only where they are set."""
    values = {key: value for key, value in TINY.items() if key not in ("tasks_per_client", "evaluation")}
    made = resolve(Config(**values | {"chain": {"provider": "embedded"}}))
    then = "5cc3403b4d0489252890cb73e6f61837f86a43b39752e50c3f8ea5da86ff7d87"
    assert ledger.former_run_id(made).hex() == then
    moved = made.model_copy(update={"device": "cuda", "workers": 3, "engine": "ray"})
    assert ledger.former_run_id(moved).hex() == then


def paid(path: Path) -> dict[int, int | None]:
    """Units that each client holds on the chain."""
    found = status(path / "chain", RunFolder.open(path).config.chain)
    assert found.problem is None
    return {one.client: one.claimed for one in found.participants}


def earned(result: Result) -> dict[int, int]:
    return {one.client: one.earned for one in result.participants}


def disagreements(path: Path) -> list[str]:
    findings = audit(path, RunFolder.open(path).config.chain)
    assert len(findings) > 8
    return [f"{finding.what}: {finding.detail}" for finding in findings if not finding.ok]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def anvil(folder: Path, port: int, kind: NodeKind = "anvil") -> Iterator[str]:
    node = start_node(kind, folder, port)
    try:
        yield node.url
    finally:
        node.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run on the embedded chain; tests only read it."""
    return run(config("embedded"), out=tmp_path_factory.mktemp("runs") / "undisturbed")


@pytest.mark.parametrize("provider", SLOW_GANACHE)
def test_every_round_is_recorded_all_are_paid_and_the_audit_agrees(
    provider: str, tmp_path: Path
) -> None:
    result = run(config(provider), out=tmp_path / "run")
    assert result.chain is not None
    assert (result.chain["recorded"], result.chain["complete"], result.chain["problem"]) == (
        6,
        True,
        None,
    )
    assert sum(earned(result).values()) == 6 * 100 * 10**6
    assert paid(result.run) == earned(result)
    assert disagreements(result.run) == []


def test_a_chain_changes_nothing_that_is_learned_or_earned(undisturbed: Result, tmp_path: Path) -> None:
    plain = run(config("none"), out=tmp_path / "plain")
    assert earned(plain) == earned(undisturbed)
    one, other = contents(plain.run), contents(undisturbed.run)
    assert {k: v for k, v in one.items() if k.endswith("tensors")} == {
        k: v for k, v in other.items() if k.endswith("tensors")
    }


def test_a_chain_that_is_down_delays_payment_and_nothing_else(
    undisturbed: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "AWAY_SECONDS", 0.5)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    result = run(config(url, required=False), out=tmp_path / "run")
    assert result.chain is not None
    assert (result.chain["recorded"], result.chain["complete"]) == (0, False)
    assert url in result.chain["problem"]
    assert (tmp_path / "run" / "clients.jsonl").read_bytes() == (
        undisturbed.run / "clients.jsonl"
    ).read_bytes()
    with anvil(tmp_path / "anvil", port):
        later = resume(result.run)
        assert later.chain is not None
        assert later.chain["complete"]
        assert paid(result.run) == earned(undisturbed)
        assert disagreements(result.run) == []


@pytest.mark.parametrize("required", [True, False])
def test_a_hard_fork_that_is_too_old_is_reported_before_the_run(
    required: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmeta.chain.node.HARDFORK", "paris")
    with (
        anvil(tmp_path / "anvil", free_port()) as url,
        pytest.raises(UsageError, match="has rules from before Shanghai"),
    ):
        run(config(url, required=required), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_chain_that_was_reset_is_refused_until_a_new_campaign_is_asked_for(
    undisturbed: Result, tmp_path: Path
) -> None:
    port = free_port()
    with anvil(tmp_path / "first", port) as url:
        result = run(config(url), out=tmp_path / "run")
        assert paid(result.run) == earned(undisturbed)
    with anvil(tmp_path / "second", port):
        with pytest.raises(UsageError, match="--new-campaign"):
            resume(result.run)
        again = resume(result.run, new_campaign=True)
        assert again.chain is not None
        assert again.chain["complete"]
        assert paid(result.run) == earned(undisturbed)
        assert disagreements(result.run) == []
    assert (tmp_path / "run" / "chain-1" / "journal.sqlite").is_file()


@pytest.mark.parametrize("provider", ["embedded", "anvil"])
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.timeout(900)
def test_a_run_killed_at_random_moments_pays_as_the_undisturbed_one(
    provider: str, kills: int, undisturbed: Result, tmp_path: Path
) -> None:
    (tmp_path / "tiny.toml").write_text(tomli_w.dumps(config(provider).model_dump(exclude_none=True)))
    path, moments = tmp_path / "killed", random.Random(4)
    for _ in range(kills):
        process = _start(path, tmp_path)
        time.sleep(moments.uniform(0.2, 2.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = _start(path, tmp_path)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert (path / "clients.jsonl").read_bytes() == (undisturbed.run / "clients.jsonl").read_bytes()
    assert paid(path) == earned(undisturbed)
    assert disagreements(path) == []


def _start(path: Path, cwd: Path) -> subprocess.Popen[str]:
    known = ("resume", str(path)) if path.exists() else ("run", "tiny.toml", "--out", str(path))
    return start(*known, cwd=cwd)


def test_a_deployed_campaign_is_used_by_the_run_that_it_was_made_for(tmp_path: Path) -> None:
    with anvil(tmp_path / "anvil", free_port()) as url:
        made_for, file = config(url), tmp_path / "addresses.json"
        addresses, fresh = deploy(made_for, file)
        assert fresh
        before = file.read_bytes()
        assert deploy(made_for, file) == (addresses, False)
        assert file.read_bytes() == before
        result = run(config(url, addresses=str(file)), out=tmp_path / "run")
        found = status(result.run / "chain", RunFolder.open(result.run).config.chain)
        assert (found.ledger, found.token) == (addresses.ledger, addresses.token)
        assert paid(result.run) == earned(result)
        other = Config(**WHOLE | {"seed": 5, "chain": {"provider": url, "addresses": str(file)}})  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"addresses\.json"):
            run(other, out=tmp_path / "other")
        assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("provider", SLOW_GANACHE)
def test_stakes_are_put_down_and_slashed_into_the_escrow(provider: str, tmp_path: Path) -> None:
    staked = WHOLE | {
        "cohort": 6,
        "behaviours": [{"kind": "poison", "clients": [5], "factor": 1e9}],
        "chain": {
            "provider": provider,
            "staking": {"enabled": True, "stake": 40, "slash_after": 2, "slash_share": 0.25},
        },
    }
    result = run(Config(**staked), out=tmp_path / "run")  # type: ignore[arg-type]
    assert result.chain is not None
    assert result.chain["complete"]
    found = status(result.run / "chain", RunFolder.open(result.run).config.chain)
    assert found.escrow is not None
    # 6 pots of 100 tokens, a quarter of one stake of 40, and the unit that keeps the escrow warm.
    assert found.escrow.funded in (610 * 10**6, 610 * 10**6 + 1)
    assert disagreements(result.run) == []


@pytest.mark.parametrize("provider", SLOW_GANACHE)
def test_tokens_under_a_challenge_delay_are_reported_and_claimed_later(
    provider: str, tmp_path: Path
) -> None:
    # A node of ours would take the time from its machine again as it is opened.
    node = nullcontext(provider)
    if provider != "embedded":
        node = anvil(tmp_path / "node", free_port(), provider)  # type: ignore[assignment, arg-type]
    with node as chosen:
        result = run(config(chosen, challenge_delay=1000), out=tmp_path / "run")
        assert result.chain is not None
        assert (result.chain["complete"], result.chain["waiting"]) == (True, 600 * 10**6)
        assert set(paid(result.run).values()) == {0}
        options = RunFolder.open(result.run).config.chain
        with open_chain(options, result.run / "chain") as chain:
            chain.request("evm_increaseTime", (1001,))
            chain.request("evm_mine")
        assert claim(result.run / "chain", options).units == 600 * 10**6
        assert paid(result.run) == earned(result)
        assert disagreements(result.run) == []


def test_a_committee_of_32_can_record(tmp_path: Path) -> None:
    result = run(config("embedded", rounds=1, committee=32, threshold=32), out=tmp_path / "run")
    assert paid(result.run) == earned(result)


def test_a_run_that_outgrows_its_budget_is_refused_and_left_as_it_was(
    undisturbed: Result, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed.run, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    with pytest.raises(UsageError, match=r"chain\.budget"):
        resume(tmp_path / "run", {"rounds": 8})
    assert {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")} == before
    again = resume(tmp_path / "run")
    assert again.chain is not None
    assert again.chain["complete"]


@pytest.mark.parametrize("pot", [2 * 10**12, 2**64 + 1, MOST_TOKENS // 2])
def test_any_pot_that_the_token_can_hold_is_paid_to_the_last_unit(pot: int, tmp_path: Path) -> None:
    result = run(config("embedded", rounds=2, pot=pot), out=tmp_path / "run")
    assert result.chain is not None
    assert (result.chain["problem"], result.chain["awarded"]) == (None, 2 * pot * 10**6)
    assert sum(earned(result).values()) == 2 * pot * 10**6
    assert paid(result.run) == earned(result)
    assert disagreements(result.run) == []


def test_more_pots_than_a_campaign_can_hold_are_refused_by_the_bound() -> None:
    # The contract counts in 128 bits, of which one unit is nobody's.
    assert (MOST_TOKENS * 10**6 + 1) < 2**128 <= (MOST_TOKENS + 1) * 10**6 + 1
    with pytest.raises(ValueError, match=rf"in 6 rounds are more than the {MOST_TOKENS}"):
        config("embedded", pot=MOST_TOKENS // 6 + 1)
    assert config("none", pot=MOST_TOKENS).chain.pot == MOST_TOKENS
    with pytest.raises(ValueError, match=str(MOST_TOKENS)):
        config("none", pot=MOST_TOKENS + 1)


def test_a_run_with_a_larger_budget_can_grow(tmp_path: Path) -> None:
    result = run(config("embedded", budget=800), out=tmp_path / "run")
    longer = resume(result.run, {"rounds": 8})
    assert sum(earned(longer).values()) == 800 * 10**6
    assert paid(longer.run) == earned(longer)
    assert disagreements(longer.run) == []


def test_a_damaged_journal_is_rebuilt_from_the_logs(undisturbed: Result, tmp_path: Path) -> None:
    shutil.copytree(undisturbed.run, tmp_path / "run")
    journal = tmp_path / "run" / "chain" / "journal.sqlite"
    with closing(sqlite3.connect(journal)) as db:
        db.execute("UPDATE contributions SET update_hash = zeroblob(32) WHERE round = 3")
        db.commit()
    again = resume(tmp_path / "run", new_campaign=True)
    assert again.chain is not None
    assert again.chain["complete"]
    assert paid(tmp_path / "run") == earned(undisturbed)
    assert disagreements(tmp_path / "run") == []


def test_an_audit_of_files_that_were_touched_names_what_differs(
    undisturbed: Result, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed.run, tmp_path / "run")
    log = tmp_path / "run" / "clients.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    changed = re.sub(rb'"reward": (\d+)', lambda m: b'"reward": %d' % (int(m[1]) + 1), lines[1])
    log.write_bytes(b"".join([lines[0], changed, *lines[2:]]))
    done = fedmeta("chain", "audit", "run", cwd=tmp_path)
    assert done.returncode == 1
    assert "round 1" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["chain.provider=anvill"], "did you mean 'anvil'?"),
        (["chain.provider=http://127.0.0.1:9"], "http://127.0.0.1:9"),
        (["chain.provider=embedded", "chain.threshold=9"], "threshold = 9"),
        (["chain.provider=embedded", "chain.budget=10"], "chain.budget = 10 is smaller than 6 pots"),
        (["chain.provider=embedded", "chain.addresses=missing.json"], "chain: addresses"),
        (["chain.provider=embedded", "chain.keystore=keys"], "chain: keystore"),
        (["chain.provider=http://me:secret@127.0.0.1:9"], "use ${FEDMETA_RPC_NAME} instead"),
        (
            ["chain.provider=http://127.0.0.1:9/${FEDMETA_CLIENT_SECRET}", "chain.required=false"],
            "only variables that begin with FEDMETA_RPC_",
        ),
        (["incentives.rule=shaply"], "'shapley'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    settings: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "tiny.toml").write_text(tomli_w.dumps(WHOLE))
    pairs = [argument for pair in settings for argument in ("-s", pair)]
    done = fedmeta("run", "./tiny.toml", *pairs, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list((tmp_path / "runs").glob("*"))


def test_without_the_extra_a_chain_is_one_line_and_everything_else_works(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(tomli_w.dumps(WHOLE | {"rounds": 1}))
    without = (
        "import sys\n"
        "for name in ('web3', 'eth_account', 'eth_abi', 'coincurve', 'eth', 'eth_hash'):\n"
        "    sys.modules[name] = None\n"
        "from fedmeta.cli.main import main\n"
        "for more in ([], ['-s', 'chain.provider=embedded']):\n"
        "    try:\n"
        "        main(['run', './tiny.toml', *more])\n"
        "    except SystemExit as end:\n"
        "        print('ended with', end.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", without], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert re.findall("^ended with (.*)$", done.stdout, re.MULTILINE) == ["0", "2"]
    assert done.stderr == "fedmeta: the chain needs an optional extra: pip install 'fedmeta[chain]'\n"


def test_a_run_without_a_chain_has_no_campaign(tmp_path: Path) -> None:
    result = run(Config(**TINY | {"rounds": 1}), out=tmp_path / "run")
    with pytest.raises(UsageError, match="no chain"):
        resume(result.run, new_campaign=True)
    done = fedmeta("chain", "audit", "run", cwd=tmp_path)
    assert done.returncode == 2
    assert "no ledger" in done.stderr


def test_the_quickstart_can_be_had_with_a_chain() -> None:
    settings = {"chain.provider": "embedded"}
    assert load_config("quickstart", settings).chain.enabled
    with pytest.raises(FedmetaError):
        load_config("quickstart", settings | {"chain.pot": 0})


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an old id; tests work on copies."""
    path = tmp_path_factory.mktemp("former") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ledger, "run_id", ledger.former_run_id)
        run(config("embedded", budget=1000), {"rounds": 3}, out=path)
    return path


def forget_id(path: Path) -> None:
    info = RunFolder.open(path).info
    (path / "run.json").write_text(json.dumps({k: v for k, v in info.items() if k != "run_id"}))


def accounts(path: Path) -> set[tuple[int, str]]:
    return {(row["client"], row["account"]) for row in RunFolder.open(path).clients()}


@pytest.mark.parametrize("lost", ["nothing", "its id", "its id and the journal"])
def test_a_run_with_an_old_id_keeps_it(former: Path, tmp_path: Path, lost: str) -> None:
    path = shutil.copytree(former, tmp_path / "run")
    known = RunFolder.open(path).info["run_id"]
    assert known != ledger.run_id(RunFolder.open(path).config).hex()
    if lost != "nothing":
        forget_id(path)
    if lost == "its id and the journal":
        shutil.rmtree(path / "chain")
    # An extended run: its config is no longer that of its id.
    rounds = 3 if lost == "its id and the journal" else 5
    result = resume(path, {"rounds": rounds})
    assert result.chain is not None
    assert (result.chain["recorded"], result.chain["complete"]) == (rounds, True)
    assert accounts(path) >= accounts(former)
    assert len(accounts(path)) == len({client for client, _ in accounts(path)}), "one account each"
    if lost == "nothing":
        assert RunFolder.open(path).info["run_id"] == known
        assert disagreements(path) == []


def test_a_run_that_lost_its_id_resumes_with_that_of_its_journal(tmp_path: Path) -> None:
    """Extended before: of its config the id would be another."""
    run(config("embedded", budget=1000), {"rounds": 2}, out=tmp_path / "run")
    resume(tmp_path / "run", {"rounds": 3})
    forget_id(tmp_path / "run")
    before = accounts(tmp_path / "run")
    resume(tmp_path / "run", {"rounds": 5})
    after = accounts(tmp_path / "run")
    assert before <= after
    assert len(after) == len({client for client, _ in after})


def test_a_deployment_that_an_earlier_version_began_is_finished_for_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed with the token on the chain, and before there was a file with addresses."""

    def killed(step: str) -> None:
        if step == "after deployed":
            raise KeyboardInterrupt

    file = tmp_path / "addresses.json"
    with start_node("anvil", tmp_path / "node") as node:
        wanted = resolve(config(node.url, addresses=str(file)))
        ahead = resolve(config(node.url))
        former, now = ledger.former_run_id(wanted), ledger.run_id(wanted)
        with monkeypatch.context() as earlier:
            earlier.setattr(ledger, "run_id", ledger.former_run_id)
            earlier.setattr("fedmeta.chain.settle.deployment.Journal", partial(Journal, hook=killed))
            with pytest.raises(KeyboardInterrupt):
                deploy(ahead, file)
        assert not file.exists()
        assert ledger.new_run_id(wanted) == former
        addresses, fresh = deploy(ahead, file)
        assert (addresses.run, fresh) == (former, True)
        assert ledger.new_run_id(wanted) == former != now
        result = run(wanted, out=tmp_path / "run")
    assert result.chain is not None
    assert result.chain["complete"], result.chain


@pytest.mark.parametrize("how", ["of another config", "damaged", "of a format to come"])
def test_a_deployment_of_something_else_is_refused_in_one_line(how: str, tmp_path: Path) -> None:
    file = tmp_path / "addresses.json"
    beside = file.with_name("addresses.json.journal")
    with start_node("anvil", tmp_path / "node") as node:
        wanted = resolve(config(node.url))
        with closing(Journal(beside)) as journal:
            journal.found(Campaign(bytes(32), bytes(32), 10**6, 10**6))
        if how == "damaged":
            beside.write_bytes(b"nothing of the kind" * 500)
        if how == "of a format to come":
            with closing(sqlite3.connect(beside)) as database:
                database.execute("PRAGMA user_version = 99")
        said = {
            "of another config": "is an unfinished deployment with other settings",
            "damaged": "the journal is damaged",
            "of a format to come": "a journal of format 99, and this fedmeta reads",
        }
        with pytest.raises(FedmetaError, match=said[how]) as caught:
            deploy(wanted, file)
        assert "\n" not in str(caught.value)
        assert not file.exists()


@pytest.mark.parametrize(("of", "taken"), [("before", True), ("now", True), ("another", False)])
def test_contracts_deployed_ahead_are_for_the_old_id_or_the_new_one(
    tmp_path: Path, of: str, taken: bool
) -> None:
    file = tmp_path / "addresses.json"
    wanted = resolve(config("http://127.0.0.1:1", addresses=str(file)))
    ids = {"before": ledger.former_run_id(wanted), "now": ledger.run_id(wanted), "another": bytes(32)}
    zero = "0x" + "00" * 20
    file.write_bytes(Addresses(31337, "0x", f"0x{ids[of].hex()}", "0x", zero, zero).to_json())
    assert (ledger.new_run_id(wanted) == ids[of]) == taken
    assert ledger.new_run_id(wanted) in (ids["before"], ids["now"])
