import pytest

from fedmeta.chain.chain import open_chain
from fedmeta.chain.errors import RevertedError
from fedmeta.chain.options import UNITS, ChainOptions, StakingOptions
from fedmeta.chain.settle.deployment import attach
from fedmeta.chain.settle.journal import JournalView
from fedmeta.chain.settle.recording import attached
from fedmeta.chain.settle.settlement import Settlement
from fedmeta.chain.settle.staking import Stakes
from fedmeta.chain.signing import Signer
from tests.chain.settle.helpers import earned, held, run_id
from tests.chain.settle.rounds import POT, account, synthetic_rounds

ROUNDS = synthetic_rounds(3)
ACCOUNTS = [account(client) for client in range(3)]
STAKE = 10 * UNITS
LEAVER = Signer(b"\x07" * 32)


@pytest.fixture
def options(anvil):
    staking = StakingOptions(enabled=True, stake=10, slash_share=0.25, unbonding=0)
    return ChainOptions(provider=anvil, pot=1, staking=staking)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "chain"


def run(folder, options, slash=()):
    with Settlement(folder, options, run_id(folder), 100 * POT) as settlement:
        settlement.stake([*ACCOUNTS, LEAVER.address])
        for offender, evidence in slash:
            settlement.slash(offender, evidence)
        settlement.freeze(ROUNDS[settlement.frozen :])
        settlement.start()
        assert settlement.finish(60).complete


def stakes_of(folder, options):
    with open_chain(options, folder) as chain:
        registry = attach(JournalView(folder / "journal.sqlite"), chain).registry
        return {a: registry.call("members", a)[0] for a in ACCOUNTS}


def test_every_client_stakes_once_at_the_start(folder, options):
    run(folder, options)
    run(folder, options)
    assert stakes_of(folder, options) == dict.fromkeys(ACCOUNTS, STAKE)
    with open_chain(options, folder) as chain:
        deployed = attach(JournalView(folder / "journal.sqlite"), chain)
        assert deployed.token.call("balanceOf", deployed.registry.address) == 4 * STAKE
        assert held(deployed.token, list(earned(ROUNDS))) == earned(ROUNDS)


def test_a_slash_takes_its_share_once_and_funds_the_escrow(folder, options):
    evidence = b"\x01" * 32
    run(folder, options, [(ACCOUNTS[1], evidence)])
    run(folder, options, [(ACCOUNTS[1], evidence), (ACCOUNTS[1], b"\x02" * 32)])
    assert stakes_of(folder, options) == dict.fromkeys(ACCOUNTS, STAKE) | {ACCOUNTS[1]: STAKE * 3 // 4}
    with open_chain(options, folder) as chain:
        ledger = attach(JournalView(folder / "journal.sqlite"), chain).ledger
        assert ledger.call("funded") == 100 * POT + ledger.call("DUST") + STAKE // 4


def test_only_clients_with_a_stake_are_slashed(folder, options):
    run(folder, options, [(account(77), b"\x01" * 32)])
    assert stakes_of(folder, options) == dict.fromkeys(ACCOUNTS, STAKE)


def test_the_contract_caps_what_one_account_can_lose(folder, options):
    run(folder, options)
    with attached(folder, options) as recording:
        stakes = Stakes(recording)
        with pytest.raises(RevertedError, match="SlashCapExceeded"):
            stakes.slash(ACCOUNTS[0], STAKE, b"\x01" * 32)
        assert stakes.slash(ACCOUNTS[0], 1, b"\x01" * 32)
        assert not stakes.slash(ACCOUNTS[0], 1, b"\x01" * 32), "the same evidence again"
        assert stakes.slash(ACCOUNTS[0], 1, b"\x02" * 32)
    assert stakes_of(folder, options)[ACCOUNTS[0]] == STAKE - 2


def test_a_staker_that_never_contributes_earns_and_loses_nothing(folder, options):
    run(folder, options)
    with attached(folder, options) as recording:
        deployed = recording.deployed
        assert deployed.ledger.call("claimed", LEAVER.address) == 0
        assert deployed.registry.call("members", LEAVER.address)[0] == STAKE
        stakes = Stakes(recording)
        stakes.leave(LEAVER)
        stakes.withdraw(LEAVER.address)
        # What was awarded went to those who contributed, all of it: the stake is all that it has.
        assert deployed.token.call("balanceOf", LEAVER.address) == STAKE
        assert held(deployed.token, list(earned(ROUNDS))) == earned(ROUNDS)


def test_a_client_that_leaves_gets_its_stake_back_and_is_not_staked_again(folder, options):
    run(folder, options)
    with attached(folder, options) as recording:
        deployed = recording.deployed
        stakes = Stakes(recording)
        with pytest.raises(RevertedError, match="NotLeaving"):
            stakes.withdraw(LEAVER.address)
        for _ in range(2):
            stakes.leave(LEAVER)
        for _ in range(2):
            stakes.withdraw(LEAVER.address)
        assert deployed.token.call("balanceOf", LEAVER.address) == STAKE
    run(folder, options, [(LEAVER.address, b"\x01" * 32)])
    with open_chain(options, folder) as chain:
        deployed = attach(JournalView(folder / "journal.sqlite"), chain)
        assert not deployed.registry.call("isActive", LEAVER.address)


@pytest.mark.parametrize("times", [2, 3])
def test_an_account_may_come_and_go_more_than_once(folder, options, times):
    """Each leave, withdrawal and stake is a transaction of its own, and each is made once."""
    run(folder, options)
    with attached(folder, options) as recording:
        deployed, stakes = recording.deployed, Stakes(recording)
        for _ in range(times):
            stakes.leave(LEAVER)
            stakes.withdraw(LEAVER.address)
            assert deployed.token.call("balanceOf", LEAVER.address) > 0
            assert deployed.registry.call("members", LEAVER.address)[0] == 0
            stakes.join([LEAVER.address])
            stakes.join([LEAVER.address])
            assert deployed.registry.call("members", LEAVER.address)[0] == STAKE
        assert deployed.token.call("balanceOf", LEAVER.address) == times * STAKE
        assert len(deployed.registry.events("Withdrawn", 0)) == times
