import socket

from fedmeta.chain.options import ChainOptions
from fedmeta.chain.settle.claims import claim
from fedmeta.chain.settle.settlement import Settlement
from fedmeta.chain.settle.status import status
from tests.chain.settle.helpers import earned, run_id, settle
from tests.chain.settle.rounds import POT, account, synthetic_rounds

ROUNDS = synthetic_rounds(5, clients=3)


def test_it_shows_each_participants_award_and_payment(anvil, tmp_path):
    options = ChainOptions(provider=anvil, pot=1, claim="never", batch=2)
    folder = tmp_path / "chain"
    assert settle(folder, options, ROUNDS[:4]).complete
    claim(folder, options, "1")
    with Settlement(folder, options, run_id(folder), 100 * POT) as settlement:
        settlement.freeze(ROUNDS)
        # While the run is in progress.
        found = status(folder, options)
    assert (found.frozen, found.recorded, found.waiting) == (5, 4, 1)
    assert (found.pot, found.budget, found.problem) == (POT, 100 * POT, None)
    recorded, frozen = earned(ROUNDS[:4]), earned(ROUNDS)
    assert [p.client for p in found.participants] == [0, 1, 2]
    for p in found.participants:
        assert p.account.lower() == account(p.client)
        assert (p.awarded, p.frozen) == (recorded[account(p.client)], frozen[account(p.client)])
        assert p.claimed == (p.awarded if p.client == 1 else 0)
        assert p.unclaimed == p.awarded - p.claimed
    assert found.escrow is not None
    assert found.escrow.paid == recorded[account(1)]
    assert found.escrow.next_round == 5
    # One unit more is awarded to nobody; see the contract's DUST.
    assert found.escrow.awarded == sum(recorded.values()) + 1
    assert found.escrow.funded == 100 * POT + 1


def test_without_its_chain_it_shows_the_journals_state(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    options = ChainOptions(provider=f"http://127.0.0.1:{port}", pot=1)
    folder = tmp_path / "chain"
    with Settlement(folder, options, run_id(folder), 100 * POT) as settlement:
        settlement.freeze(ROUNDS)
    found = status(folder, options)
    assert (found.frozen, found.recorded, found.escrow, found.ledger) == (5, 0, None, None)
    assert str(port) in str(found.problem)
    assert [p.frozen for p in found.participants] == [earned(ROUNDS)[account(c)] for c in range(3)]
    assert {p.claimed for p in found.participants} == {None}
