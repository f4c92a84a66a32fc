"""`evaluation.head`: held-out clients are tested with a scikit-learn estimator on the features."""

from pathlib import Path
from typing import Any

import pytest
import torch

import fedmeta
from fedmeta.errors import ConfigError
from fedmeta.experiment import Config, run
from fedmeta.options import parse_options
from tests.experiment.helpers import TINY

FOREST = "sklearn.ensemble.RandomForestClassifier(n_estimators=10)"
DIGITS: dict[str, Any] = {
    **TINY,
    "task": "digits",
    "rounds": 3,
    "data": {"ways": 3, "shots": 2, "queries": 2},
    "network": {"hidden": [12]},
    "evaluation": {"tasks": 6, "steps": [0]},
}


def test_a_head_changes_the_test_and_not_the_training(tmp_path: Path) -> None:
    evaluation = {**DIGITS["evaluation"], "head": FOREST}
    plain = run(Config(**DIGITS), out=tmp_path / "plain")
    first = run(Config(**{**DIGITS, "evaluation": evaluation}), out=tmp_path / "first")
    again = run(Config(**{**DIGITS, "evaluation": evaluation, "workers": 2}), out=tmp_path / "again")
    assert [one.status for one in (plain, first, again)] == ["finished"] * 3
    found = [fedmeta.load(tmp_path / name) for name in ("plain", "first", "again")]
    assert all(torch.equal(value, found[1].state[key]) for key, value in found[0].state.items())
    assert found[1].final == found[2].final
    assert found[1].final[0]["accuracy"] > found[0].final[0]["accuracy"]


@pytest.mark.parametrize(
    ("evaluation", "why"),
    [
        ({"head": "sklearn.svm.SVR()", "steps": [0]}, "is not a classifier"),
        ({"head": "sklearn.neighbors.KNeighborsClassifier(99)", "steps": [0]}, "cannot be fitted"),
        ({"head": "print(1)", "steps": [0]}, "'print' is not an estimator class"),
        ({"head": FOREST}, "head takes no adaptation steps: set evaluation.steps = \\[0\\]"),
    ],
)
def test_a_bad_head_is_refused_before_the_run(
    evaluation: dict[str, Any], why: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=why) as refusal:
        run(parse_options(Config, {**DIGITS, "evaluation": evaluation}), out=tmp_path / "run")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()
