"""Measures of finished runs with incomplete results."""

from pathlib import Path

import pytest

from fedmeta.comparison.compare import compare
from fedmeta.comparison.results import read
from fedmeta.comparison.statistics import Target, curve, to_target
from fedmeta.errors import ConfigError
from fedmeta.experiment import Config, run
from tests.comparison.helpers import DIGITS


def test_a_run_without_rounds_is_seen_once_before_any_round(tmp_path: Path) -> None:
    untrained = Config(**DIGITS | {"rounds": 0, "training": "centralized"})
    result = run(untrained, out=tmp_path / "untrained")
    measured = read(tmp_path / "untrained", "accuracy", 0.0)
    final = {step.step: step.accuracy for step in result.final}
    assert {step: tested.value for step, tested in measured.final.items()} == final
    assert (measured.tasks, measured.bytes_down, measured.bytes_up) == (0, 0, 0)
    assert [(point["round"], point["tasks"], point["mean"]) for point in curve([measured], 3)] == [
        (0, 0, final[3])
    ]
    last = final[3]
    assert last is not None
    for target, reached in ((last, 1), (last + 0.01, 0)):
        found = to_target([measured], Target(target, 3, "by hand", higher_is_better=True))
        assert found["reached"] == reached
        assert found["rounds"]["mean"] == (0 if reached else None)


def test_a_comparison_without_rounds_has_no_budget_and_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^rounds = 0: a comparison needs at least 1"):
        compare(Config(**DIGITS), {"rounds": 0})
