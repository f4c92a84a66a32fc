"""Flower's simulation engine on its own Ray: the same results, and no leftovers."""

import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedmeta.errors import UsageError
from fedmeta.federation import RoundRecord
from fedmeta.federation.behaviours import mods_for
from fedmeta.federation.engines.ray import require_ray
from fedmeta.training import simulate
from tests.federation.engines.ray import child
from tests.federation.faults import everything
from tests.federation.helpers import SINUSOID, assert_same


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, subprocess.CompletedProcess[str]]:
    out = tmp_path_factory.mktemp("ray") / "seen"
    process = subprocess.run(
        [sys.executable, "-c", "from tests.federation.engines.ray.child import main; main()", str(out)],
        cwd=Path(__file__).resolve().parents[4],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return pickle.loads(out.read_bytes()), process


@pytest.fixture(scope="module")
def seen(ended: tuple[Any, Any]) -> list[child.Seen]:
    return ended[0][0]  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_same_results_as_in_one_process(seen: list[child.Seen]) -> None:
    records: list[RoundRecord] = []
    mods = mods_for(child.BEHAVIOURS, SINUSOID)
    end = simulate(SINUSOID, child.PLAN, observer=lambda r, _: records.append(r), mods=mods)
    for key, value in end.state.items():
        assert (seen[0].end.state[key] - value).abs().max() <= 1e-5 * value.abs().max()
    cohorts = [[c.client for c in record.clients] for record in records]
    assert [[c.client for c in record.clients] for record in seen[0].records] == cohorts
    assert [record.admitted for record in seen[0].records] == [record.admitted for record in records]
    assert [record.evaluation is None for record in seen[0].records] == [True, False, True, False]
    assert seen[0].test.keys() == {14, 15, 16}


@pytest.mark.slow
def test_the_same_result_twice(seen: list[child.Seen]) -> None:
    assert_same(seen[0].end.state, seen[1].end.state)
    assert seen[0].records == seen[1].records
    assert seen[0].test == seen[1].test


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_nothing(seen: list[child.Seen]) -> None:
    assert [record.admitted for record in seen[2].records] == [8, 8, 8, 8]
    assert_same(seen[0].end.state, seen[2].end.state)


@pytest.mark.slow
def test_a_client_that_fails_is_quarantined_with_the_reason_it_has_on_any_engine(
    seen: list[child.Seen],
) -> None:
    stacked: list[RoundRecord] = []
    simulate(child.ODD, child.ODD_PLAN, observer=lambda record, _: stacked.append(record))
    ours, theirs = ({c.client: c.reason for c in r.clients} for r in (seen[3].records[0], stacked[0]))
    assert ours[3] == theirs[3] == "client failed: OSError: private disk is broken"
    assert [client for client, why in ours.items() if why] == [c for c, why in theirs.items() if why]


@pytest.mark.slow
def test_a_round_proceeds_without_a_client_that_does_not_answer(seen: list[child.Seen]) -> None:
    reasons = {c.client: c.reason for c in seen[4].records[0].clients if c.reason}
    assert reasons == {4: "no reply within 60 s"}


@pytest.mark.slow
def test_faults_are_those_of_a_grid_whose_time_is_simulated(seen: list[child.Seen]) -> None:
    everything.check(seen[5].records, child.FAULTY_TIMEOUT)


@pytest.mark.slow
def test_nothing_is_left_behind_and_nothing_is_printed(ended: tuple[Any, Any]) -> None:
    (_, left), process = ended
    assert left == []
    assert process.stdout == ""
    assert process.stderr == ""


def test_the_extra_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r"engine = 'ray' needs the extra: pip install 'fedmeta\[ray\]'"
    ):
        require_ray()
