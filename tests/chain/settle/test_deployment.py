import json
import os
import signal
import socket
from functools import partial

import pytest
import rlp
from eth_utils import keccak, to_checksum_address

from fedmeta.chain.chain import Chain, open_chain
from fedmeta.chain.errors import ChainDownError
from fedmeta.chain.hashing import created_address
from fedmeta.chain.node import start_node
from fedmeta.chain.options import ChainOptions, StakingOptions
from fedmeta.chain.settle import deployment
from fedmeta.chain.settle.deployment import attach, deploy_to_file
from fedmeta.chain.settle.journal import Journal, JournalView
from fedmeta.chain.settle.terms import Addresses, read_addresses
from fedmeta.errors import UsageError
from tests.chain.settle.helpers import earned, held, run_id, settle
from tests.chain.settle.rounds import POT, synthetic_rounds

BUDGET = 100 * POT


@pytest.fixture
def path(tmp_path):
    return tmp_path / "addresses.json"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run" / "chain"


@pytest.fixture
def options(anvil):
    return ChainOptions(provider=anvil, pot=1)


def deploy(path, options, folder, budget=BUDGET):
    return deploy_to_file(path, options, run_id(folder), budget, path.parent / "node")


def height(options, folder):
    with open_chain(options, folder) as chain:
        return chain.request("eth_blockNumber")


def test_the_second_time_finds_the_first_and_changes_nothing(path, options, folder):
    first, fresh = deploy(path, options, folder)
    assert fresh
    before, written = height(options, folder), path.read_bytes()
    second, fresh = deploy(path, options, folder)
    assert not fresh
    assert (second, path.read_bytes(), height(options, folder)) == (first, written, before)
    assert sorted(p.name for p in path.parent.glob("addresses*")) == ["addresses.json"]


def test_a_run_records_on_what_was_deployed_and_deploys_nothing(path, options, folder):
    addresses, _ = deploy(path, options, folder)
    rounds = synthetic_rounds(3)
    there = options.model_copy(update={"addresses": str(path)})
    before = int(height(options, folder), 16)
    assert settle(folder, there, rounds).complete
    assert int(height(options, folder), 16) == before + 3 + 1, "three records and a claim"
    journal = JournalView(folder / "journal.sqlite")
    with open_chain(options, folder) as chain:
        deployed = attach(journal, chain)
        assert deployed.ledger.address == addresses.ledger
        assert held(deployed.token, list(earned(rounds))) == earned(rounds)


def test_the_file_lists_the_addresses(path, options, folder):
    addresses, _ = deploy(path, options, folder)
    content = json.loads(path.read_bytes())
    assert Addresses(**content) == addresses == read_addresses(path)
    assert content["chain_id"] == 31337
    assert bytes.fromhex(content["run_id"][2:]) == run_id(folder)
    assert set(content["code"]) == {"FedToken", "RewardLedger"}
    with open_chain(options, folder) as chain:
        assert content["genesis"] == chain.request("eth_getBlockByNumber", ("0x0", False))["hash"]


def test_it_may_be_killed_at_every_step(path, options, folder, forked):
    """A child is killed at one step event after the other, of the deployment's journal."""

    def killed_at(number):
        events = 0

        def hook(_):
            nonlocal events
            events += 1
            if events == number:
                os.kill(os.getpid(), signal.SIGKILL)

        # The child's module alone is changed.
        deployment.Journal = partial(Journal, hook=hook)
        deploy(path, options, folder)

    kills = 0
    while forked(killed_at, 1 + kills % 2) == -signal.SIGKILL:
        kills += 1
        assert kills < 100
    assert kills > 15
    addresses, fresh = deploy(path, options, folder)
    assert not fresh
    there = options.model_copy(update={"addresses": str(path)})
    assert settle(folder, there, synthetic_rounds(2)).complete
    assert addresses == read_addresses(path)


@pytest.fixture
def forked():
    """Call a function in a fork of this process, and return how it ended."""

    def run(function, *arguments):
        child = os.fork()
        if child == 0:
            status = 70
            try:
                function(*arguments)
                status = 0
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    return run


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pot": 2}, "round cap is 1 tokens, not 2 tokens"),
        ({"threshold": 4}, "threshold is 3, not 4"),
        ({"committee": 4}, "committee is 0x"),
        ({"challenge_delay": 60}, "challenge delay is 0, not 60"),
        ({"staking": StakingOptions(enabled=True)}, "no registry of stakes"),
    ],
)
def test_other_terms_are_refused_in_one_line(path, options, folder, changes, said):
    deploy(path, options, folder)
    with pytest.raises(UsageError, match=said) as error:
        deploy(path, options.model_copy(update=changes), folder)
    assert "\n" not in str(error.value)


def test_another_budget_is_refused(path, options, folder):
    deploy(path, options, folder)
    with pytest.raises(UsageError, match="lifetime cap is 100 tokens, not 200 tokens"):
        deploy(path, options, folder, 200 * POT)


def test_another_chain_is_refused(path, options, folder, tmp_path):
    deploy(path, options, folder)
    with start_node("anvil", tmp_path / "other") as node:
        other = options.model_copy(update={"provider": node.url})
        with pytest.raises(UsageError, match="the chain was reset; deploy to another file"):
            deploy(path, other, folder)


def test_an_address_without_our_code_is_refused(path, options, folder):
    addresses, _ = deploy(path, options, folder)
    content = vars(addresses) | {"ledger": addresses.token}
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=f"at {addresses.token} there is no RewardLedger of this"):
        deploy(path, options, folder)
    there = options.model_copy(update={"addresses": str(path)})
    settled = settle(folder, there, synthetic_rounds(1))
    assert settled.refused
    assert "there is no RewardLedger of this version" in settled.problem


@pytest.mark.parametrize("address", ["", "0x12", "ledger", "0x" + "zz" * 20])
@pytest.mark.parametrize("name", ["token", "ledger"])
def test_an_invalid_address_is_refused_in_one_line(path, options, folder, name, address):
    addresses, _ = deploy(path, options, folder)
    path.write_text(json.dumps(vars(addresses) | {name: address}))
    with pytest.raises(UsageError, match=rf"addresses\.json: not an address: '{address}'$"):
        deploy(path, options, folder)


def test_the_case_of_an_address_makes_no_difference(path, options, folder):
    addresses, _ = deploy(path, options, folder)
    contracts = {"token": addresses.token.lower(), "ledger": addresses.ledger.lower()}
    path.write_text(json.dumps(vars(addresses) | contracts))
    _, fresh = deploy(path, options, folder)
    there = options.model_copy(update={"addresses": str(path)})
    assert (fresh, settle(folder, there, synthetic_rounds(1)).complete) == (False, True)


def test_another_runs_campaign_is_refused(path, options, folder, tmp_path):
    deploy(path, options, folder)
    there = options.model_copy(update={"addresses": str(path)})
    settled = settle(tmp_path / "elsewhere" / "chain", there, synthetic_rounds(1))
    assert settled.refused
    assert "has other terms: campaign is" in settled.problem


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"chain_id": 1}', "not json"])
def test_a_file_that_is_something_else_is_named(path, options, folder, content):
    path.write_text(content)
    with pytest.raises(UsageError, match=r"addresses\.json: not a file that `fedmeta chain deploy`"):
        deploy(path, options, folder)


def test_no_node_is_one_line_and_leaves_nothing(path, folder):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    options = ChainOptions(provider=f"http://127.0.0.1:{port}", pot=1)
    with pytest.raises(ChainDownError) as error:
        deploy(path, options, folder)
    assert error.value.exit_code == 2
    assert not list(path.parent.glob("addresses*"))


def test_an_account_without_funds_is_one_line_and_sends_nothing(path, folder, tmp_path):
    with start_node("anvil", tmp_path / "poor") as node:
        options = ChainOptions(provider=node.url, pot=1)
        with open_chain(options, folder) as chain:
            chain.request("anvil_setBalance", ("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266", "0x1"))
            with pytest.raises(UsageError, match=r"account 0xf39F.* has 1e-18 ETH on chain 31337"):
                deploy(path, options, folder)
            assert chain.request("eth_blockNumber") == "0x0"
        assert not path.exists()


def test_addresses_of_created_contracts_are_ethereums():
    sender = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
    for nonce in (0, 1, 127, 128, 255, 256, 70_000):
        made = keccak(rlp.encode([bytes.fromhex(sender[2:]), nonce]))[12:]
        assert created_address(sender, nonce) == to_checksum_address(made)


def test_chains_are_closed(path, options, folder, monkeypatch):
    closed = []
    close = Chain.close
    monkeypatch.setattr(Chain, "close", lambda self: (closed.append(self), close(self)))
    deploy(path, options, folder)
    assert len(closed) == 1
