"""`fedmeta chain` as a user calls it: up, deploy, run, status, claim, audit, on a real Anvil."""

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w

from tests.experiment.helpers import TINY, fedmeta, start


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
        assert "EVERYBODY KNOWS THESE KEYS" in "\n".join(banner)
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("chain", "deploy", "./tiny.toml"), "start one with `fedmeta chain up`"),
        (("chain", "deploy", "./tiny.toml", "--url", "http://127.0.0.1:9"), "http://127.0.0.1:9"),
        (("chain", "status", "nowhere"), "no run folder at 'nowhere'"),
        (("chain", "up", "geth"), "'geth' is not one of"),
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
