"""The overhead benchmark runs whole rounds with updates of the stated size."""

import math

import pytest
import torch

from fedmeta.bench.grid_overhead import conv4_workload, flat_workload, measure_overhead, mlp_workload
from fedmeta.federation import Learner, Plan, Workload
from fedmeta.training import simulate


# Conv4-64: four convolutions without bias, four norms, the head. MLP: three layers with their biases.
@pytest.mark.parametrize(
    ("workload", "numbers"),
    [
        (conv4_workload(3), 9 * 64 + 3 * 9 * 64 * 64 + 8 * 64 + 64 * 5 + 5),
        (flat_workload(3), 112_500),
        (mlp_workload(3), 80 + 1640 + 41),
    ],
)
def test_every_round_but_the_first_is_timed_and_followed_by_its_rival(workload: Workload, numbers: int):
    measured = measure_overhead(workload, 2)
    assert measured.update_bytes == 4 * numbers
    for timing in (measured.rounds, measured.saved):
        assert len(timing.samples) == 2
        assert all(math.isfinite(sample) and sample > 0 for sample in timing.samples)


def test_a_client_sends_about_a_tenth_of_its_weights():
    workload = mlp_workload(3)
    seen = []
    simulate(
        workload, Plan(rounds=1, cohort=3), observer=lambda record, _: seen.append(record.update_norm)
    )
    start = torch.cat([value.flatten() for value in Learner.build(workload).init_state().values()])
    assert seen == [pytest.approx(0.1 * start.norm().item(), rel=1e-5)]
