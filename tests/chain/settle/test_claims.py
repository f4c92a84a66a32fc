import pytest

from fedmeta.chain.chain import open_chain
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.settle import claims
from fedmeta.chain.settle.claims import claim
from fedmeta.chain.settle.deployment import attach
from fedmeta.chain.settle.journal import JournalView
from fedmeta.errors import UsageError
from tests.chain.settle.helpers import earned, held, settle
from tests.chain.settle.rounds import account, synthetic_rounds

ROUNDS = synthetic_rounds(4, clients=7)
OWED = earned(ROUNDS)


@pytest.fixture
def options(anvil):
    return ChainOptions(provider=anvil, pot=1, claim="never")


@pytest.fixture
def folder(tmp_path, options):
    folder = tmp_path / "chain"
    assert settle(folder, options, ROUNDS).complete
    return folder


def balances(folder, options):
    with open_chain(options, folder) as chain:
        token = attach(JournalView(folder / "journal.sqlite"), chain).token
        return held(token, list(OWED))


def test_one_account_by_its_number_is_paid_and_no_other(folder, options):
    claimed = claim(folder, options, "3")
    assert (claimed.accounts, claimed.units) == (1, OWED[account(3)])
    assert balances(folder, options) == dict.fromkeys(OWED, 0) | {account(3): OWED[account(3)]}


def test_one_account_by_its_address(folder, options):
    assert claim(folder, options, account(2).upper().replace("0X", "0x")).units == OWED[account(2)]


def test_a_claim_may_be_repeated_and_pays_once(folder, options):
    assert claim(folder, options).units == sum(OWED.values())
    again = claim(folder, options)
    assert (again.accounts, again.units) == (0, 0)
    assert balances(folder, options) == OWED


def test_later_rounds_pay_only_what_they_add(folder, options):
    claim(folder, options)
    longer = synthetic_rounds(6, clients=7)
    assert settle(folder, options, longer).complete
    claim(folder, options, "1")
    added = {a: units - OWED[a] for a, units in earned(longer).items()}
    expected = OWED | {account(1): OWED[account(1)] + added[account(1)]}
    assert balances(folder, options) == expected


def test_many_are_paid_in_batches(folder, options, monkeypatch):
    monkeypatch.setattr(claims, "IN_ONE_TRANSACTION", 3)
    with open_chain(options, folder) as chain:
        before = int(chain.request("eth_blockNumber"), 16)
        claim(folder, options)
        assert int(chain.request("eth_blockNumber"), 16) == before + 3, "7 accounts, 3 at a time"
    assert balances(folder, options) == OWED


@pytest.mark.parametrize(("who", "nearest"), [("9", "choose from"), (account(3)[:-1], account(3))])
def test_an_unknown_participant_is_refused_with_the_nearest_one(folder, options, who, nearest):
    with pytest.raises(UsageError, match=f"'{who}' has not contributed") as error:
        claim(folder, options, who)
    assert nearest.lower() in str(error.value).lower()


def test_before_anything_is_on_a_chain(tmp_path, options):
    with pytest.raises(UsageError, match="there is no journal in"):
        claim(tmp_path / "chain", options)
