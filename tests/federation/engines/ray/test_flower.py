"""Flower's simulation engine with a stock strategy, and with a user's strategy and mods."""

import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAvg

from fedmeta.federation import AggregationOptions, Federation, Learner, Plan, RayOptions
from fedmeta.federation.cohort import wait_for_nodes
from fedmeta.federation.engines.client_app import build_side
from fedmeta.federation.engines.ray.engine import open_ray
from fedmeta.federation.flower import quiet
from fedmeta.federation.mods import user_mods
from fedmeta.learning.device import one_thread
from fedmeta.training import simulate
from tests.federation.helpers import SINUSOID, train
from tests.federation.test_flower_replies import arrays, run_flower

MOD = "tests.federation.flower_parts:halve"
PLAN = Plan(
    rounds=2,
    cohort=5,
    aggregation=AggregationOptions(
        rule="tests.federation.flower_parts:Momentum", options={"momentum": 0.5}
    ),
)


def main(out: str) -> None:
    """Run both on Ray, and write down the states."""
    learner, clients = Learner.build(SINUSOID), len(SINUSOID.population)
    found = []
    for mods in ((MOD,), ()):
        side = partial(build_side, SINUSOID, [], None, mods)
        with one_thread(), open_ray(side, learner, RayOptions(), workers=1) as grid:
            if mods:
                end = train(Federation(learner, grid), PLAN)
                found.append({key: value.numpy() for key, value in end.state.items()})
                continue
            wait_for_nodes(grid, clients, 300.0)
            state = learner.init_state()
            start = ArrayRecord({key: Array(value.numpy()) for key, value in state.items()})
            with quiet():
                found.append(arrays(FedAvg().start(grid, start, num_rounds=2)))
    Path(out).write_bytes(pickle.dumps(found))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_same_on_ray_as_in_one_process(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import main; main({str(tmp_path / 'out')!r})"],
        cwd=Path(__file__).resolve().parents[4],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    users, stock = pickle.loads((tmp_path / "out").read_bytes())
    mods = dict.fromkeys(range(12), user_mods([MOD], SINUSOID.local_lr))
    here = simulate(SINUSOID, PLAN, observer=lambda *_: None, mods=mods).state
    for key, value in here.items():
        np.testing.assert_allclose(users[key], value.numpy(), rtol=1e-5, atol=1e-7)
    for key, array in arrays(run_flower(FedAvg(), SINUSOID, 2)).items():
        np.testing.assert_allclose(stock[key], array, rtol=1e-5, atol=1e-7)
