"""`fedmeta chain` end to end: up, deploy, run, status, claim, audit, on a real Anvil."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from eth_account import Account
from web3 import HTTPProvider, Web3

from fedmeta.chain import load_artifact
from fedmeta.chain.errors import NO_EXTRA
from fedmeta.chain.providers.ganache import Ganache
from fedmeta.files import open_new
from tests import processes
from tests.experiment.helpers import TINY, fedmeta, start

ROOT = Path(__file__).resolve().parents[3]
MODULES = ROOT / "contracts" / "node_modules"
NODE = Ganache.find()[:1]
SPONSOR_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here")
    (folder / "tiny.toml").write_text(tomli_w.dumps(TINY | {"chain": {"claim": "never"}}))
    return folder


@pytest.fixture(scope="module")
def url(here: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = start("chain", "up", "--port", str(port), cwd=here)
    assert process.stdout is not None
    banner = []
    for line in process.stdout:
        banner.append(line.rstrip())
        if line.startswith("Listening on "):
            break
    try:
        assert "THESE KEYS ARE PUBLIC" in "\n".join(banner)
        assert "(0) 0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266 (10,000 ETH)" in banner
        assert banner[-1] == f"Listening on http://127.0.0.1:{port}"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 0


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_up_to_audit(here: Path, url: str) -> None:
    deployed = said(fedmeta("chain", "deploy", "./tiny.toml", "--url", url, cwd=here))
    assert deployed.startswith("deployed\n")
    addresses = json.loads((here / "addresses.json").read_text())
    assert addresses["ledger"] in deployed
    again = said(fedmeta("chain", "deploy", "./tiny.toml", "--url", url, "--json", cwd=here))
    assert json.loads(again)["fresh"] is False

    on = ("-s", f"chain.provider={url}", "-s", "chain.addresses=addresses.json")
    ran = said(fedmeta("run", "./tiny.toml", *on, "--out", "run", cwd=here))
    assert "600 tokens for" in ran
    assert "6 of 6 rounds recorded on the chain" in ran

    before = json.loads(said(fedmeta("chain", "status", "run", "--json", cwd=here)))
    assert before["ledger"] == addresses["ledger"]
    assert (before["recorded"], before["waiting"], before["escrow"]["paid"]) == (6, 0, 0)
    first = before["participants"][0]

    one = said(fedmeta("chain", "claim", "run", "--who", str(first["client"]), cwd=here))
    assert "tokens claimed for 1 accounts" in one
    rest = json.loads(said(fedmeta("chain", "claim", "run", "--json", cwd=here)))
    assert rest["units"] == 600 * 10**6 - first["awarded"]
    after = said(fedmeta("chain", "status", "run", cwd=here))
    assert "600 awarded, 600 paid" in after
    assert first["account"] in after

    audited = said(fedmeta("chain", "audit", "run", cwd=here))
    assert {line.split()[0] for line in audited.splitlines()} == {"ok"}


@pytest.fixture(scope="module")
def staked(here: Path, url: str) -> Path:
    """A run with stakes and unclaimed rewards."""
    on = ("-s", f"chain.provider={url}", "-s", "chain.staking.enabled=true", "-s", "seed=5")
    on += ("-s", "chain.staking.unbonding=0", "-s", "chain.staking.stake=10")
    said(fedmeta("run", "./tiny.toml", *on, "--out", "staked", cwd=here))
    return here / "staked"


def status_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said(fedmeta("chain", "status", str(run), "--json", cwd=run)))
    return found


def proof_of(run: Path, who: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        said(fedmeta("chain", "proof", str(run), str(who), "--json", cwd=run))
    )
    return found


def tool(name: str) -> list[str]:
    """A program that `make nodes` brings."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    found = MODULES / "@foundry-rs" / f"{name}-linux-{machine}" / "bin" / name
    assert found.is_file(), "run `make nodes`"
    return [str(found)]


class TestOtherTools:
    def test_status_has_each_accounts_balance_stake_slashes_and_proof(self, staked: Path) -> None:
        status = status_of(staked)
        for one in status["participants"]:
            assert (one["balance"], one["stake"], one["slashes"]) == (0, 10 * 10**6, [])
            assert one["proof"]["cumulative"] == one["awarded"]
            assert one["proof"] == proof_of(staked, one["client"]) == proof_of(staked, one["account"])

    def test_cast_reads_and_claims_as_the_page_says(self, staked: Path, url: str) -> None:
        one = status_of(staked)["participants"][0]
        shown = said(fedmeta("chain", "proof", str(staked), "0", cwd=staked))
        lines = [line.rsplit(" ", 1)[1] for line in shown.splitlines()]
        names = ("LEDGER", "ROUND", "ACCOUNT", "UNITS", "PROOF")
        environment = dict(zip(names, lines, strict=True)) | {"URL": url, "KEY": SPONSOR_KEY}
        page = (ROOT / "docs" / "chain.md").read_text("utf-8")
        read, claim, logs = [line for line in page.splitlines() if line.startswith("cast ")]
        asked = [run_shell(line, environment) for line in (read, claim, read, logs)]
        assert int(asked[0].split()[0]) == 0
        assert int(asked[2].split()[0]) == one["awarded"]
        after = status_of(staked)["participants"][0]
        assert (after["claimed"], after["balance"]) == (one["awarded"], one["awarded"])
        assert asked[3].count("- address:") >= 6

    def test_ethers_reads_and_claims(self, staked: Path, url: str, tmp_path: Path) -> None:
        one = status_of(staked)["participants"][1]
        (tmp_path / "proof.json").write_text(json.dumps(proof_of(staked, one["client"])))
        (tmp_path / "abi.json").write_text(said(fedmeta("chain", "abi", "RewardLedger", cwd=tmp_path)))
        # Modules are looked for where the script lies.
        (tmp_path / "claim.mjs").write_text((ROOT / "docs" / "claim.mjs").read_text("utf-8"))
        (tmp_path / "node_modules").symlink_to(MODULES)
        command = [*NODE, "claim.mjs", url, "proof.json", "abi.json", SPONSOR_KEY]
        for already in (0, one["awarded"]):
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            awarded = f"{one['account']} was awarded {one['awarded']} units and has claimed {already}"
            assert done.stdout.splitlines() == [awarded, f"claimed {one['awarded']}"]
        assert status_of(staked)["participants"][1]["balance"] == one["awarded"]

    def test_a_plain_script_is_notified_of_records_and_payments(self, here: Path, url: str) -> None:
        on = ("-s", f"chain.provider={url}", "-s", "seed=9", "-s", "chain.claim=end")
        addresses = ("-s", "chain.addresses=heard.json")
        said(fedmeta("chain", "deploy", "./tiny.toml", "--to", "heard.json", *on[:4], cwd=here))
        (here / "abi.json").write_text(said(fedmeta("chain", "abi", cwd=here)))
        script = [sys.executable, str(ROOT / "docs" / "watch_ledger.py"), url.replace("http", "ws")]
        watcher = processes.Popen(
            [*script, "heard.json", "abi.json", "8"], cwd=here, stdout=subprocess.PIPE, text=True
        )
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "watching\n"
        said(fedmeta("run", "./tiny.toml", *on, *addresses, "--out", "heard", cwd=here))
        heard, _ = watcher.communicate(timeout=60)
        assert watcher.returncode == 0
        records, paid = heard.splitlines()[:6], heard.splitlines()[6:]
        # 100 tokens of 10^6 units a round.
        assert records == [f"rounds {n} to {n}: total {n * 100 * 10**6}" for n in range(1, 7)]
        balances = {p["account"]: p["balance"] for p in status_of(here / "heard")["participants"]}
        for line in paid:
            units, account = line.removeprefix("paid ").split(" units to ")
            assert balances[account] == int(units)

    def test_events_are_decoded(self, staked: Path) -> None:
        found = json.loads(said(fedmeta("chain", "events", str(staked), "--json", cwd=staked)))
        named = Counter((one["contract"], one["event"]) for one in found)
        assert named["RewardLedger", "Recorded"] == 6
        assert named["ParticipantRegistry", "Joined"] == len(status_of(staked)["participants"])
        totals = [e["arguments"]["total"] for e in found if e["event"] == "Recorded"]
        assert totals == [n * 100 * 10**6 for n in range(1, 7)]
        lines = said(fedmeta("chain", "events", str(staked), cwd=staked)).splitlines()
        assert len(lines) == len(found)


class TestStakes:
    def test_a_client_leaves_withdraws_its_stake_and_joins_again(self, staked: Path) -> None:
        stakes = ("chain", "stake")
        before = status_of(staked)["participants"][2]
        again = fedmeta(*stakes, "withdraw", str(staked), "--who", "2", cwd=staked)
        assert (again.returncode, len(again.stderr.splitlines())) == (1, 1)
        assert "NotLeaving" in again.stderr
        said(fedmeta(*stakes, "leave", str(staked), "--who", "2", cwd=staked))
        said(fedmeta(*stakes, "withdraw", str(staked), "--who", "2", cwd=staked))
        left = status_of(staked)["participants"][2]
        assert (left["stake"], left["balance"]) == (0, before["balance"] + 10 * 10**6)
        joined = said(fedmeta(*stakes, "join", str(staked), "--who", before["account"], cwd=staked))
        assert joined == f"{before['account']} has a stake\n"
        assert status_of(staked)["participants"][2]["stake"] == 10 * 10**6

    def test_an_account_joins_with_tokens_of_its_own(self, staked: Path, url: str) -> None:
        account, key = Account.create(), staked / "account.json"
        with open_new(key, 0o600) as file:
            file.write(json.dumps(Account.encrypt(account.key, "", kdf="scrypt", iterations=2)).encode())
        own = ("chain", "stake", "join", str(staked), "--key", str(key))
        poor = fedmeta(*own, cwd=staked)
        assert (poor.returncode, poor.stderr.count("\n")) == (1, 1)
        assert f"account {account.address} has 0 ETH" in poor.stderr
        w3 = Web3(HTTPProvider(url))
        sponsor = w3.eth.accounts[0]
        token = w3.eth.contract(status_of(staked)["token"], abi=list(load_artifact("FedToken").abi))
        w3.eth.send_transaction({"from": sponsor, "to": account.address, "value": 10**18})
        token.functions.transfer(account.address, 25 * 10**6).transact({"from": sponsor})
        said(fedmeta(*own, cwd=staked))
        said(fedmeta(*own, cwd=staked))
        assert token.functions.balanceOf(account.address).call() == 15 * 10**6
        said(fedmeta(*own[:2], "leave", *own[3:], cwd=staked))
        said(fedmeta(*own[:2], "withdraw", *own[3:], cwd=staked))
        assert token.functions.balanceOf(account.address).call() == 25 * 10**6

    def test_a_campaign_without_stakes_says_so(self, here: Path, url: str, staked: Path) -> None:
        on = ("-s", f"chain.provider={url}", "-s", "rounds=1")
        said(fedmeta("run", "./tiny.toml", *on, "--out", "unstaked", cwd=here))
        refused = fedmeta("chain", "stake", "join", "unstaked", "--who", "0", cwd=here)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
        assert "this campaign has no stakes" in refused.stderr
        nobody = fedmeta("chain", "stake", "join", str(staked), cwd=here)
        assert (nobody.returncode, "name the account" in nobody.stderr) == (2, True)

    def test_an_account_that_is_no_address_is_refused_in_one_line(self, staked: Path) -> None:
        refused = fedmeta("chain", "stake", "join", str(staked), "--who", "0x12", cwd=staked)
        assert (refused.returncode, refused.stderr) == (2, "fedmeta: not an address: '0x12'\n")


def run_shell(line: str, environment: dict[str, str]) -> str:
    """Run a line of the page with the node's tools on the path."""
    path = f"{Path(tool('cast')[0]).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        line,
        shell=True,
        env={**os.environ, "PATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_node_that_is_down_is_not_a_difference(here: Path, staked: Path) -> None:
    away = ("chain", "audit", str(staked), "--provider", "http://127.0.0.1:9")
    done = fedmeta(*away, cwd=here)
    assert done.returncode == 2
    *files, last = done.stdout.splitlines()
    assert {line.split()[0] for line in files} == {"ok"}
    assert last.startswith("AWAY chain: no node answers at http://127.0.0.1:9")
    assert json.loads(fedmeta(*away, "--json", cwd=here).stdout)["agrees"] is None


@pytest.mark.parametrize(
    "command",
    [
        ("status", "run"),
        ("claim", "run"),
        ("audit", "run"),
        ("proof", "run", "0"),
        ("events", "run"),
        ("abi",),
    ],
)
def test_without_the_extra_one_line_says_what_to_install(command: tuple[str, ...], here: Path) -> None:
    (here / "absent.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.partition('.')[0] in ('coincurve', 'eth', 'eth_abi', 'rlp', 'web3'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from fedmeta.cli import main\n"
        f"sys.argv = ['fedmeta', 'chain', *{command!r}]\n"
        "sys.exit(main())\n"
    )
    done = processes.run([sys.executable, "absent.py"], cwd=here)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"fedmeta: {NO_EXTRA}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("chain", "abi", "FedTokens"), "did you mean 'FedToken'"),
        (("chain", "deploy", "./tiny.toml"), "start one with `fedmeta chain up`"),
        (("chain", "deploy", "./tiny.toml", "--url", "http://127.0.0.1:9"), "http://127.0.0.1:9"),
        (("chain", "status", "nowhere"), "no run folder at 'nowhere'"),
        (("chain", "up", "geth"), "(got 'geth')"),
        (("chain", "upp"), "No such command 'upp'"),
    ],
)
def test_bad_usage_is_one_line_and_leaves_nothing(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    (tmp_path / "tiny.toml").write_text(tomli_w.dumps(TINY))
    done = fedmeta(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]


def test_a_port_in_use_and_a_wrong_chain_id_are_named(here: Path, url: str) -> None:
    port = url.rpartition(":")[2]
    busy = fedmeta("chain", "up", "--port", port, cwd=here)
    assert (busy.returncode, busy.stdout) == (2, "")
    assert f"port {port} is in use" in busy.stderr
    wrong = ("-s", f"chain.provider={url}", "-s", "chain.chain_id=1337")
    refused = fedmeta("run", "./tiny.toml", *wrong, "--out", "wrong", cwd=here)
    assert refused.returncode == 2
    assert "1337" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (here / "wrong").exists()
