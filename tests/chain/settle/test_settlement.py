import shutil
import socket
import time
from dataclasses import replace
from threading import Thread

import pytest

from fedmeta.chain.chain import open_chain
from fedmeta.chain.errors import ChainDownError
from fedmeta.chain.node import start_node
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.settle.campaign import new_campaign
from fedmeta.chain.settle.claims import claim
from fedmeta.chain.settle.deployment import attach
from fedmeta.chain.settle.journal import JournalView
from fedmeta.chain.settle.journal_rows import Content
from fedmeta.chain.settle.recording import attached
from fedmeta.chain.settle.settlement import Hooks, Settlement
from fedmeta.errors import RunError, UsageError
from tests.chain.settle.faults import FaultyChain, PassedOn
from tests.chain.settle.helpers import (
    earned,
    held,
    keys_of,
    record_as_committee,
    run_id,
    send,
    settle,
    veto_as_committee,
)
from tests.chain.settle.rounds import POT, account, synthetic_round, synthetic_rounds

ROUNDS = synthetic_rounds(6)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "chain"


@pytest.fixture
def options(anvil):
    return ChainOptions(provider=anvil, pot=1)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("fedmeta.chain.settle.settlement.GIVE_UP_AFTER", 1.0)


def journal_of(folder):
    return JournalView(folder / "journal.sqlite")


def records_of(folder):
    return [(r.first, r.last) for r in journal_of(folder).records() if r.mined]


def require_paid(folder, options, rounds):
    with open_chain(options, folder) as chain:
        owed = earned(rounds)
        assert held(attach(journal_of(folder), chain).token, list(owed)) == owed


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class TestFreezing:
    def test_needs_no_chain(self, folder):
        options = ChainOptions(provider=f"http://127.0.0.1:{free_port()}", pot=1)
        with Settlement(folder, options, run_id(folder), POT) as settlement:
            assert settlement.frozen == 0
            settlement.freeze(ROUNDS)
            assert settlement.frozen == 6

    def test_a_round_that_pays_more_than_the_pot_is_refused(self, folder, options):
        with Settlement(folder, options, run_id(folder), 2 * POT) as settlement:
            with pytest.raises(RunError, match="round 1 pays 2000000 units; its pot is 1000000"):
                settlement.freeze([synthetic_round(1, pot=2 * POT)])
            assert settlement.frozen == 0

    def test_fifty_rounds_of_24_clients_cost_training_a_few_milliseconds(self, folder, options):
        rounds = synthetic_rounds(50, clients=24)
        with Settlement(folder, options, run_id(folder), 50 * POT) as settlement:
            began = time.thread_time()
            settlement.freeze(rounds)
            assert time.thread_time() - began < 0.05


class TestOpening:
    def test_another_runs_journal_is_refused(self, folder, options):
        Settlement(folder, options, run_id("a"), POT).close()
        with pytest.raises(UsageError, match="journal of another run"):
            Settlement(folder, options, run_id("b"), POT)

    def test_another_pot_is_refused(self, folder, options):
        Settlement(folder, options, run_id("a"), POT).close()
        changed = options.model_copy(update={"pot": 7})
        with pytest.raises(UsageError, match=r"chain\.pot: the campaign pays 1 tokens a round, not 7"):
            Settlement(folder, changed, run_id("a"), POT)

    def test_a_budget_may_grow_until_the_campaign_is_deployed(self, folder, options):
        Settlement(folder, options, run_id(folder), 6 * POT).close()
        assert settle(folder, options, ROUNDS, budget=8 * POT).complete
        with pytest.raises(UsageError, match=r"chain\.budget: .* deployed with 8 tokens and needs 9"):
            settle(folder, options, ROUNDS, budget=9 * POT)


class TestRecording:
    def test_one_record_a_round(self, folder, options):
        settled = settle(folder, options, ROUNDS)
        assert settled.complete
        assert (settled.frozen, settled.recorded, settled.problem) == (6, 6, None)
        assert settled.awarded == sum(earned(ROUNDS).values())
        assert records_of(folder) == [(n, n) for n in range(1, 7)]
        require_paid(folder, options, ROUNDS)

    def test_a_batch_of_rounds_is_one_record_and_the_rest_comes_at_the_end(self, folder, options):
        batched = options.model_copy(update={"batch": 4})
        assert settle(folder, batched, ROUNDS).complete
        assert records_of(folder) == [(1, 4), (5, 6)]
        require_paid(folder, options, ROUNDS)

    def test_a_long_backlog_is_one_record(self, folder, options):
        rounds = synthetic_rounds(100)
        assert settle(folder, options, rounds, budget=100 * POT).complete
        assert records_of(folder) == [(1, 100)]
        require_paid(folder, options, rounds)

    def test_rounds_without_payments_are_recorded_as_well(self, folder, options):
        nothing = [replace(synthetic_round(n), contributions=()) for n in (1, 2)]
        settled = settle(folder, options, nothing)
        assert settled.complete
        assert settled.awarded == 0
        assert records_of(folder) == [(1, 1), (2, 2)]

    def test_a_resumed_run_continues_where_it_stopped(self, folder, options):
        assert settle(folder, options, ROUNDS[:3]).complete
        assert settle(folder, options, ROUNDS).complete
        require_paid(folder, options, ROUNDS)

    def test_no_client_is_paid_where_claims_are_left_to_the_participants(self, folder, options):
        never = options.model_copy(update={"claim": "never"})
        assert settle(folder, never, ROUNDS).complete
        require_paid(folder, options, [])
        assert claim(folder, options).units == sum(earned(ROUNDS).values())
        require_paid(folder, options, ROUNDS)

    def test_two_runs_share_a_node_and_the_sponsors_account(self, tmp_path, options):
        folders = [tmp_path / name / "chain" for name in "ab"]
        settled = {}

        def run(folder):
            settled[folder] = settle(folder, options, synthetic_rounds(12))

        threads = [Thread(target=run, args=(folder,)) for folder in folders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for folder in folders:
            assert settled[folder].complete, settled[folder]
            require_paid(folder, options, synthetic_rounds(12))


class TestTrouble:
    def test_a_chain_that_is_down_for_the_whole_run_delays_payment(self, folder, tmp_path, impatient):
        port = free_port()
        options = ChainOptions(provider=f"http://127.0.0.1:{port}", pot=1)
        with Settlement(folder, options, run_id(folder), 100 * POT) as settlement:
            settlement.freeze(ROUNDS)
            settlement.start()
            settlement.check()
            # As long as it may is longer than a test may last.
            settled = settlement.finish(3600)
        assert not settled.complete
        assert not settled.refused
        assert str(port) in str(settled.problem)
        with start_node("anvil", tmp_path / "node", port):
            assert settle(folder, options, ROUNDS).complete
            assert records_of(folder) == [(n, n) for n in range(1, 7)]
            require_paid(folder, options, ROUNDS)

    def test_a_chain_that_comes_up_late_catches_up(self, folder, tmp_path):
        port = free_port()
        options = ChainOptions(provider=f"http://127.0.0.1:{port}", pot=1)
        with Settlement(folder, options, run_id(folder), 100 * POT) as settlement:
            settlement.start()
            settlement.freeze(ROUNDS)
            settlement.check()
            with start_node("anvil", tmp_path / "node", port):
                assert settlement.finish(60).complete
                require_paid(folder, options, ROUNDS)

    def test_a_chain_that_was_reset_is_refused(self, folder, tmp_path):
        port = free_port()
        options = ChainOptions(provider=f"http://127.0.0.1:{port}", pot=1)
        with start_node("anvil", tmp_path / "one", port):
            assert settle(folder, options, ROUNDS[:3]).complete
        with start_node("anvil", tmp_path / "two", port):
            with Settlement(folder, options, run_id(folder), 100 * POT) as settlement:
                settlement.start()
                with pytest.raises(
                    UsageError, match=r"the chain was reset; start over with --new-campaign"
                ) as error:
                    settlement.check()
                assert "\n" not in str(error.value)
                settled = settlement.finish(10)
            assert (settled.complete, settled.refused) == (False, True)
            with open_chain(options, folder) as chain:
                assert chain.request("eth_blockNumber") == "0x0", "nothing was sent"
            new_campaign(folder, options, run_id(folder), 100 * POT)
            assert settle(folder, options, ROUNDS).complete
            require_paid(folder, options, ROUNDS)

    def test_an_account_without_funds_is_named_and_used_once_it_has_some(self, folder, tmp_path):
        with start_node("anvil", tmp_path / "node") as node:
            options = ChainOptions(provider=node.url, pot=1)
            sponsor = keys_of(folder, options).sponsor.address
            with open_chain(options, folder) as chain:
                chain.request("anvil_setBalance", (sponsor, hex(10**10)))
                with Settlement(folder, options, run_id(folder), 100 * POT) as settlement:
                    settlement.start()
                    settlement.freeze(ROUNDS)
                    with pytest.raises(UsageError, match=f"account {sponsor} has 1e-08 ETH"):
                        settlement.check()
                    chain.request("anvil_setBalance", (sponsor, hex(10**19)))
                    assert settlement.finish(60).complete
            require_paid(folder, options, ROUNDS)

    def test_a_sponsor_without_the_tokens_for_the_escrow_is_named(self, folder, options, impatient):
        def spend(event):
            if event != "before deployed":
                return
            # The token is there and nothing is in escrow: the sponsor gives all but three away.
            with open_chain(options, folder) as chain:
                keys = keys_of(folder, options)
                address = chain.request(
                    "eth_getTransactionReceipt", ("0x" + first_transaction(folder).hex(),)
                )["contractAddress"]
                supply = 10**9 * POT
                token = attach_token(chain, address)
                data = token.data("transfer", account(0), supply - 3 * POT)
                send(chain, keys.sponsor, address, data)

        settled = settle(folder, options, ROUNDS, hooks=Hooks(step=spend))
        assert not settled.complete
        assert "the escrow lacks 100 tokens and the sponsor" in str(settled.problem)
        assert str(settled.problem).endswith("has 3")


def first_transaction(folder):
    return journal_of(folder).landed()[0].hash


def attach_token(chain, address):
    from fedmeta.chain.contracts import Contract, load_artifact

    return Contract(chain, load_artifact("FedToken"), address)


class TestReorganisation:
    def test_vanished_records_are_sent_again(self, folder, options):
        assert settle(folder, options, ROUNDS[:5]).complete
        with open_chain(options, folder) as chain:
            chain.request("anvil_reorg", (4, []))
            ledger = attach(journal_of(folder), chain).ledger
            # Five records and a claim were the newest six blocks.
            assert ledger.call("nextRound") == 3
        assert settle(folder, options, ROUNDS).complete
        require_paid(folder, options, ROUNDS)

    def test_a_vanished_deployment_is_made_again(self, folder, tmp_path):
        with start_node("anvil", tmp_path / "node") as node:
            options = ChainOptions(provider=node.url, pot=1)
            assert settle(folder, options, ROUNDS).complete
            with open_chain(options, folder) as chain:
                chain.request("anvil_reorg", (int(chain.request("eth_blockNumber"), 16), []))
            assert settle(folder, options, ROUNDS).complete
            require_paid(folder, options, ROUNDS)

    def test_it_is_noticed_while_the_run_goes_on(self, folder, options, monkeypatch):
        monkeypatch.setattr("fedmeta.chain.settle.settlement.LOOK_EVERY", 0.05)
        with Settlement(folder, options, run_id(folder), 100 * POT) as settlement:
            settlement.start()
            settlement.freeze(ROUNDS)
            wait_until(lambda: settlement.journal.recorded == 6)
            with open_chain(options, folder) as chain:
                ledger = attach(journal_of(folder), chain).ledger
                chain.request("anvil_reorg", (3, []))
                wait_until(lambda: ledger.call("nextRound") == 7)
            assert settlement.finish(60).complete
        require_paid(folder, options, ROUNDS)


def wait_until(done, seconds=20.0):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


class TestOthersRecords:
    def test_records_that_say_the_same_are_taken_over(self, folder, options):
        """A journal from before the records, as after a restored backup."""
        assert settle(folder, options, []).complete
        before = folder.with_name("before")
        shutil.copytree(folder, before)
        assert settle(folder, options, ROUNDS).complete
        with open_chain(options, folder) as chain:
            height = chain.request("eth_blockNumber")
            shutil.rmtree(folder)
            before.rename(folder)
            assert settle(folder, options, ROUNDS).complete
            assert chain.request("eth_blockNumber") == height, "nothing was sent again"
        assert records_of(folder) == [(n, n) for n in range(1, 7)]

    def test_a_record_with_other_content_is_refused_and_named(self, folder, options):
        never = options.model_copy(update={"claim": "never"})
        assert settle(folder, never, ROUNDS[:1]).complete
        with attached(folder, options) as recording:
            content = next_content(recording, ROUNDS[1])
            record_as_committee(recording.deployed, keys_of(folder, options), content)
        settled = settle(folder, options, ROUNDS)
        assert (settled.refused, settled.recorded) == (True, 1)
        assert f"rounds 2 to 2 that is not this run's (rewards root 0x{'01' * 32}" in settled.problem

    def test_records_of_rounds_that_this_run_never_had_are_refused(self, folder, options):
        assert settle(folder, options, ROUNDS[:1]).complete
        with attached(folder, options) as recording:
            content = next_content(recording, ROUNDS[1])
            record_as_committee(recording.deployed, keys_of(folder, options), replace(content, last=9))
        settled = settle(folder, options, ROUNDS[:3])
        assert settled.refused
        assert "has a record of rounds 2 to 9 and this run has 3 frozen rounds" in settled.problem
        assert "fedmeta chain deploy --to FILE" in settled.problem
        assert "fedmeta resume RUN --new-campaign" in settled.problem


def next_content(recording, frozen):
    """What a record of one more round would say; the round need not be frozen."""
    total = sum(recording.journal.rewards(frozen.round - 1).values()) + frozen.reward
    root = b"\x01" * 32
    return Content(frozen.round, frozen.round, root, root, frozen.model, frozen.evidence, total)


class TestChallenge:
    @pytest.fixture
    def options(self, anvil):
        return ChainOptions(provider=anvil, pot=1, challenge_delay=1000)

    def test_claims_wait_for_the_challenge_delay(self, folder, options):
        assert settle(folder, options, ROUNDS).complete
        require_paid(folder, options, [])
        claimed = claim(folder, options)
        assert (claimed.units, claimed.waiting) == (0, sum(earned(ROUNDS).values()))
        with open_chain(options, folder) as chain:
            chain.request("evm_increaseTime", (1001,))
            chain.request("evm_mine")
        assert claim(folder, options).units == sum(earned(ROUNDS).values())
        require_paid(folder, options, ROUNDS)

    def test_a_veto_of_what_the_journal_says_ends_the_campaign(self, folder, options):
        assert settle(folder, options, ROUNDS[:3]).complete
        with attached(folder, options) as recording:
            roots = [r.rewards_root for r in recording.journal.records()[1:]]
            veto_as_committee(recording.deployed, keys_of(folder, options), 2, roots)
        settled = settle(folder, options, ROUNDS)
        assert settled.refused
        assert "the committee vetoed the record of rounds 2 to 2" in settled.problem
        assert settle(folder, options, ROUNDS).refused, "and stays so"

    def test_after_the_veto_of_a_false_record_the_true_one_follows(self, folder, options):
        assert settle(folder, options, ROUNDS[:1]).complete
        keys = keys_of(folder, options)
        with attached(folder, options) as recording:
            content = next_content(recording, ROUNDS[1])
            record_as_committee(recording.deployed, keys, content)
        assert settle(folder, options, ROUNDS).refused
        with open_chain(options, folder) as chain:
            deployed = attach(journal_of(folder), chain)
            veto_as_committee(deployed, keys, 2, [content.rewards_root])
        assert settle(folder, options, ROUNDS).complete
        with open_chain(options, folder) as chain:
            chain.request("evm_increaseTime", (1001,))
            chain.request("evm_mine")
        claim(folder, options)
        require_paid(folder, options, ROUNDS)


class TestNewCampaign:
    def test_keeps_the_rounds_and_pays_them_on_another_ledger(self, folder, options):
        assert settle(folder, options, ROUNDS).complete
        aside = new_campaign(folder, options, run_id(folder), 100 * POT)
        assert aside == folder.with_name("chain-1")
        old, new = journal_of(aside), journal_of(folder)
        assert list(new.rounds()) == list(old.rounds())
        assert new.campaign.campaign != old.campaign.campaign
        assert settle(folder, options, ROUNDS).complete
        assert new.campaign.ledger != old.campaign.ledger
        require_paid(folder, options, ROUNDS)
        assert new_campaign(folder, options, run_id(folder), 100 * POT).name == "chain-2"

    def test_a_crash_half_way_leaves_the_old_campaign_or_the_new_one(self, folder, options):
        Settlement(folder, options, run_id(folder), POT).close()
        unfinished = folder.with_name("chain.new")
        shutil.copytree(folder, unfinished)
        Settlement(folder, options, run_id(folder), POT).close()
        assert not unfinished.exists(), "it had not taken the old one's place"
        shutil.copytree(folder, unfinished)
        folder.rename(folder.with_name("chain-1"))
        Settlement(folder, options, run_id(folder), POT).close()
        assert not unfinished.exists(), "it had"

    def test_needs_a_campaign(self, folder, options):
        with pytest.raises(UsageError, match="no campaign in"):
            new_campaign(folder, options, run_id(folder), POT)


def test_closing_does_not_wait_for_a_node_that_hangs(folder, tmp_path, monkeypatch):
    # Longer than a test may last.
    monkeypatch.setattr("fedmeta.chain.rpc.ANSWER_SECONDS", 3600)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        options = ChainOptions(provider=f"http://127.0.0.1:{silent.getsockname()[1]}", pot=1)
        with Settlement(folder, options, run_id(folder), 100 * POT) as settlement:
            settlement.start()
            settlement.freeze(ROUNDS)
            settled = settlement.finish(1.0)
        assert not settled.complete


def test_the_settler_takes_a_broken_connection_for_a_chain_that_is_down(folder, options, impatient):
    def connect(chosen, where):
        raise ChainDownError("nobody there")

    settled = settle(folder, options, ROUNDS, hooks=Hooks(connect=connect))
    assert (settled.problem, settled.refused) == ("nobody there", False)


class SendsTwice(FaultyChain):
    """Sends every transaction twice."""

    def _fault(self):
        return "twice"


@pytest.mark.parametrize("own", ["embedded", "anvil", pytest.param("ganache", marks=pytest.mark.slow)])
def test_a_fresh_chain_that_gets_everything_twice(folder, own):
    """Ganache executes a transaction with nonce 0 as often as it is sent."""
    options = ChainOptions(provider=own, pot=1)

    def connect(chosen, where):
        return SendsTwice(open_chain(chosen, where), seed=0)

    assert settle(folder, options, ROUNDS, hooks=Hooks(connect=connect)).complete
    with open_chain(options, folder) as chain:
        deployed, owed = attach(journal_of(folder), chain), earned(ROUNDS)
        assert held(deployed.token, list(owed)) == owed
        assert deployed.ledger.call("funded") == 100 * POT + deployed.ledger.call("DUST")


class RisingFees(PassedOn):
    """A chain that loses one transaction, the `nth`, while its base fee rises a hundredfold."""

    def __init__(self, inner, nth):
        self.left = nth
        super().__init__(inner)

    def passed(self, method, params):
        if method == "eth_sendRawTransaction":
            self.left -= 1
            if self.left == 0:
                return self._lose(params)
        return self.inner.request(method, params)

    def _lose(self, params):
        self.inner.request("evm_setAutomine", (False,))
        sent = self.inner.request("eth_sendRawTransaction", params)
        self.inner.request("anvil_dropTransaction", (sent,))
        block = self.inner.request("eth_getBlockByNumber", ("latest", False))
        higher = 100 * int(block["baseFeePerGas"], 16)
        self.inner.request("anvil_setNextBlockBaseFeePerGas", (hex(higher),))
        self.inner.request("evm_mine")
        self.inner.request("evm_setAutomine", (True,))
        return sent


# Token, ledger, allowance, escrow, two records, and a claim for all.
@pytest.mark.parametrize("nth", [1, 2, 4, 5, 7])
def test_a_transaction_that_the_base_fee_outgrew_is_done_once_all_the_same(folder, options, nth):
    chains = []

    def connect(options, folder):
        chains.append(RisingFees(open_chain(options, folder), nth))
        return chains[-1]

    settled = settle(folder, options, ROUNDS[:2], hooks=Hooks(connect=connect))
    with open_chain(options, folder) as chain:
        chain.request("anvil_setNextBlockBaseFeePerGas", (hex(10**9),))
        chain.request("evm_mine")
    assert (settled.complete, settled.recorded, settled.problem) == (True, 2, None)
    assert chains[0].left <= 0, "it happened"
    require_paid(folder, options, ROUNDS[:2])
