import pytest

from fedmeta.bench.settlement_costs import measure_costs
from fedmeta.chain.options import ChainOptions


@pytest.fixture(scope="module")
def costs(anvil, tmp_path_factory):
    return measure_costs(ChainOptions(provider=anvil), tmp_path_factory.mktemp("costs"))


def test_a_record_costs_the_same_however_many_took_part(costs):
    assert abs(costs.large_record_gas - costs.small_record_gas) < 100
    assert max(costs.first_record_gas, costs.small_record_gas, costs.large_record_gas) <= 105_000


def test_a_claim_among_ten_thousand_costs_at_most_90_000_gas(costs):
    assert costs.participants == 10_000
    assert costs.batched_claim_gas < costs.fresh_claim_gas <= 90_000
    assert costs.warm_claim_gas < costs.fresh_claim_gas


def test_ten_thousand_participants_are_settled_in_two_seconds(costs):
    # Processor time: other tests run beside this one.
    assert costs.settle_processor_seconds < 2.0
