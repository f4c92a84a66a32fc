"""Single transactions on a node whose blocks the test controls."""

import threading
from itertools import pairwise

import pytest

from fedmeta.chain.chain import open_chain
from fedmeta.chain.errors import ChainError, NotMinedError, PoorAccountError, RevertedError, RpcError
from fedmeta.chain.keys import open_keys
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.settle import transactions
from fedmeta.chain.settle.journal import Journal
from fedmeta.chain.settle.transactions import Action, Transactor
from fedmeta.chain.signing import offered_fees
from tests.chain.providers.helpers import start_shared_anvil
from tests.chain.settle.helpers import send
from tests.chain.settle.rounds import account

GIFT = 7


def set_base_fee(chain, wei):
    chain.request("anvil_setNextBlockBaseFeePerGas", (hex(wei),))
    chain.request("evm_mine")


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with start_shared_anvil(tmp_path_factory.mktemp("node")) as node:
        yield node


@pytest.fixture
def options(node):
    return ChainOptions(provider=node.url)


@pytest.fixture
def chain(options, tmp_path):
    with open_chain(options, tmp_path) as chain:
        chain.request("evm_setAutomine", (True,))
        chain.request("anvil_dropAllTransactions")
        set_base_fee(chain, 10**9)
        yield chain


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    yield journal
    journal.close()


@pytest.fixture
def sponsor(options):
    return open_keys(options, 31337).sponsor


@pytest.fixture
def gift(tmp_path):
    """A transfer of a few wei to a fresh account, as an action of its own."""
    to = account(abs(hash(tmp_path)) % 2**31)
    return Action(f"gift to {to}", to, b"", 21_000, GIFT)


def has(chain, action):
    return lambda: int(chain.request("eth_getBalance", (action.to, "latest")), 16) >= GIFT


def balance(chain, action):
    return int(chain.request("eth_getBalance", (action.to, "latest")), 16)


def states(journal, action):
    return [transaction.state for transaction in journal.transactions(action.key)]


def test_once_and_not_again(chain, journal, sponsor, gift):
    transactor = Transactor(chain, journal)
    assert transactor.perform(gift, sponsor, has(chain, gift)), "by a transaction of ours"
    assert transactor.perform(gift, sponsor, has(chain, gift))
    assert balance(chain, gift) == GIFT
    assert states(journal, gift) == ["mined"]


def test_one_that_was_journaled_and_not_sent_is_sent_as_it_is(chain, journal, sponsor, gift):
    transactor = Transactor(chain, journal)
    prepared = transactor._prepare(gift, sponsor, None)
    assert transactor.perform(gift, sponsor, has(chain, gift))
    assert [t.hash for t in journal.transactions(gift.key)] == [prepared.hash]
    assert balance(chain, gift) == GIFT


def test_one_whose_nonce_another_took_is_signed_anew(chain, journal, sponsor, gift):
    transactor = Transactor(chain, journal)
    transactor._prepare(gift, sponsor, None)
    send(chain, sponsor, account(0), b"")
    assert transactor.perform(gift, sponsor, has(chain, gift))
    assert states(journal, gift) == ["dropped", "mined"]
    assert balance(chain, gift) == GIFT


def test_an_action_that_others_did_is_not_repeated(chain, journal, sponsor, gift):
    transactor = Transactor(chain, journal)
    transactor._prepare(gift, sponsor, None)
    send(chain, sponsor, gift.to, b"", GIFT)
    assert not transactor.perform(gift, sponsor, has(chain, gift)), "not by a transaction of ours"
    assert balance(chain, gift) == GIFT


def test_one_that_a_reorganisation_left_behind_a_gap_is_signed_anew(chain, journal, sponsor, gift):
    """Its nonce is no longer the account's next one: it would wait in the pool forever."""
    transactor = Transactor(chain, journal)
    send(chain, sponsor, account(0), b"")
    prepared = transactor._prepare(gift, sponsor, None)
    chain.request("anvil_reorg", (1, []))
    chain.request("eth_sendRawTransaction", ("0x" + prepared.raw.hex(),))
    assert transactor.perform(gift, sponsor, has(chain, gift))
    assert states(journal, gift) == ["dropped", "mined"]
    # The gap is filled now, and the node mines what was given up as well. A gift has nobody to refuse
    # it the second time, as our contracts do: account nonces give no exactly-once.
    assert balance(chain, gift) == 2 * GIFT


def test_it_waits_for_a_block(chain, journal, sponsor, gift):
    chain.request("evm_setAutomine", (False,))
    block = threading.Timer(0.3, lambda: chain.request("evm_mine"))
    block.start()
    assert Transactor(chain, journal).perform(gift, sponsor, has(chain, gift))
    block.join()
    assert balance(chain, gift) == GIFT


def test_a_transaction_that_is_not_mined_is_replaced_by_one_that_pays_more(
    chain, journal, sponsor, gift, monkeypatch
):
    monkeypatch.setattr(transactions, "PATIENCE", 0.05)
    chain.request("evm_setAutomine", (False,))
    transactor = Transactor(chain, journal)
    with pytest.raises(NotMinedError, match=f"{gift.key}: not mined after"):
        transactor.perform(gift, sponsor, has(chain, gift))
    with pytest.raises(NotMinedError):
        transactor.perform(gift, sponsor, has(chain, gift))
    first, second = journal.transactions(gift.key)
    assert first.nonce == second.nonce, "at most one of them is ever mined"
    pool = chain.request("eth_getTransactionByHash", ("0x" + second.hash.hex(),))
    assert int(pool["nonce"], 16) == second.nonce
    chain.request("evm_mine")
    assert transactor.perform(gift, sponsor, has(chain, gift))
    assert balance(chain, gift) == GIFT
    assert states(journal, gift)[1] == "mined"


def dropped(chain, transaction):
    chain.request("anvil_dropTransaction", ("0x" + transaction.hash.hex(),))


@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize("sent", [True, False])
def test_one_that_the_base_fee_outgrew_is_priced_anew_under_its_nonce(
    chain, journal, sponsor, gift, lost, sent
):
    chain.request("evm_setAutomine", (False,))
    old = Transactor(chain, journal)._prepare(gift, sponsor, None)
    if sent:
        chain.request("eth_sendRawTransaction", ("0x" + old.raw.hex(),))
    if lost:
        dropped(chain, old)
    set_base_fee(chain, 100 * 10**9)
    chain.request("evm_setAutomine", (True,))
    # As after a crash: nothing is known but what the journal says.
    assert Transactor(chain, journal).perform(gift, sponsor, has(chain, gift))
    first, second = journal.transactions(gift.key)
    assert (first.hash, first.nonce, second.state) == (old.hash, second.nonce, "mined")
    assert balance(chain, gift) == GIFT
    assert Transactor(chain, journal).perform(gift, sponsor, has(chain, gift))
    assert balance(chain, gift) == GIFT


def test_of_two_prices_the_one_that_is_mined_counts(chain, journal, sponsor, gift):
    chain.request("evm_setAutomine", (False,))
    transactor = Transactor(chain, journal)
    old = transactor._prepare(gift, sponsor, None)
    new = transactor._prepare(gift, sponsor, old)
    chain.request("eth_sendRawTransaction", ("0x" + old.raw.hex(),))
    chain.request("evm_setAutomine", (True,))
    chain.request("evm_mine")
    assert transactor.perform(gift, sponsor, has(chain, gift))
    assert [t.state for t in journal.transactions(gift.key)] == ["mined", "journaled"]
    assert old.nonce == new.nonce
    assert balance(chain, gift) == GIFT


@pytest.mark.parametrize(
    "words",
    [
        "max fee per gas less than block base fee: address 0xAb, maxFeePerGas: 1, baseFee: 7",
        "transaction underpriced: tip needed 2, tip permitted 1",
        "Transaction's maxFeePerGas (1) is less than the block's baseFeePerGas (7)",
        "FeeTooLow, MaxFeePerGas too low",
        "Transaction gas price supplied is too low",
    ],
)
def test_a_price_that_the_node_refuses_is_raised_until_it_is_taken(
    chain, journal, sponsor, gift, words, monkeypatch
):
    offers, send_raw = [], chain.eth.send_raw_transaction

    def picky(raw):
        offers.append(offered_fees(raw))
        if len(offers) < 4:
            raise RpcError(-32000, words)
        return send_raw(raw)

    monkeypatch.setattr(chain.eth, "send_raw_transaction", picky)
    assert Transactor(chain, journal).perform(gift, sponsor, has(chain, gift))
    assert len({t.nonce for t in journal.transactions(gift.key)}) == 1
    for fewer, more in pairwise(offers):
        # Both fees by a tenth at least, or nodes take no replacement.
        assert all(more[name] > fewer[name] * 1.1 for name in fewer)
    assert balance(chain, gift) == GIFT


def test_a_transaction_refused_for_another_reason_keeps_its_price(
    chain, journal, sponsor, gift, monkeypatch
):
    def full(raw):
        raise RpcError(-32000, "txpool is full")

    monkeypatch.setattr(chain.eth, "send_raw_transaction", full)
    for _ in range(3):
        with pytest.raises(RpcError, match="txpool is full"):
            Transactor(chain, journal).perform(gift, sponsor, has(chain, gift))
    assert len(journal.transactions(gift.key)) == 1


def test_an_account_that_cannot_pay_is_named_before_anything_is_sent(chain, journal, sponsor, gift):
    rich = Action(gift.key, gift.to, b"", 21_000, 10**30)
    with pytest.raises(PoorAccountError, match=f"account {sponsor.address} has .* needs 1e\\+12"):
        Transactor(chain, journal).perform(rich, sponsor, has(chain, gift))
    assert journal.transactions(gift.key) == []


def test_a_transaction_that_would_revert_is_not_sent(chain, journal, sponsor):
    creation = bytes.fromhex("60006000fd")  # A constructor that reverts.
    with pytest.raises(RevertedError):
        Transactor(chain, journal).perform(Action("create", None, creation), sponsor, lambda: False)
    assert journal.transactions("create") == []


def test_a_node_that_contradicts_itself_is_refused(chain, journal, sponsor, gift):
    """The receipt is there and its effect is not: perhaps two nodes behind one address."""
    transactor = Transactor(chain, journal)
    transactor.perform(gift, sponsor, has(chain, gift))
    with pytest.raises(ChainError, match="the node has the receipt, but not its effect"):
        transactor.perform(gift, sponsor, lambda: False)
    assert balance(chain, gift) == GIFT
