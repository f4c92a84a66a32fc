"""Which round is the best: rounds with divergence or missing answers never are."""

import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fedmeta.errors import RunError
from fedmeta.experiment import Config, Listener, run
from fedmeta.experiment.recorder import score
from fedmeta.federation import EvaluationSums, RoundRecord, merge
from fedmeta.tasks import Measure
from tests.experiment.helpers import TINY

MEASURES = {"loss": Measure(), "accuracy": Measure(True, 0.0, 1.0)}
NOTHING: dict[str, Any] = dict.fromkeys(RoundRecord.__dataclass_fields__)


def validated(parts: Sequence[EvaluationSums], asked: int = 2) -> RoundRecord:
    """A round after which these validation clients answered."""
    results = merge([3], parts, MEASURES, asked)
    values = {"round": 4, "skipped": False, "measures": {"loss": 0.1}, "evaluation": results}
    return RoundRecord(**NOTHING | values)


def losses(*clients: Sequence[float]) -> list[EvaluationSums]:
    return [EvaluationSums(len(v), {"loss": [sum(v)]}, {"loss": [0.0]}, [0]) for v in clients]


def graded(right: float, diverged: int = 0) -> EvaluationSums:
    sums = {"loss": [1.0], "accuracy": [right]}
    return EvaluationSums(10, sums, {"loss": [1.0], "accuracy": [right]}, [diverged])


CONFIG = Config(**TINY)


@pytest.mark.parametrize("gone", [".", "checkpoints"])
def test_a_folder_that_is_removed_under_a_run_is_named(gone: str, tmp_path: Path) -> None:
    def remove(_: RoundRecord) -> None:
        shutil.rmtree(tmp_path / "run" / gone, ignore_errors=True)

    folder = re.escape(str(tmp_path / "run" / gone))
    with pytest.raises(RunError, match=f"the folder {folder} was removed"):
        run(CONFIG, out=tmp_path / "run", listener=Listener(round=remove))


def test_the_score_is_minus_the_loss_and_in_classification_the_accuracy() -> None:
    assert score(validated(losses([1.0, 2.0], [6.0, 3.0])), CONFIG) == -3.0
    assert score(validated([graded(7), graded(8)]), CONFIG) == 0.75


def test_in_regression_a_round_with_a_diverged_task_or_a_missing_client_is_never_the_best() -> None:
    """Without the client whose task is hard, the loss would have been the lowest of all."""
    [diverged] = [EvaluationSums(2, {"loss": [0.001]}, {"loss": [0.0]}, [1])]
    assert score(validated([*losses([0.001, 0.001]), diverged]), CONFIG) is None
    assert score(validated(losses([0.001, 0.001])), CONFIG) is None


def test_in_classification_what_diverged_or_is_missing_was_wrong() -> None:
    """9 of 10 right with the other client missing is 9 of 20; 4 diverged are among the wrong ones."""
    assert score(validated([graded(9)]), CONFIG) == pytest.approx(9 / 20)
    assert score(validated([graded(9), graded(5, diverged=4)]), CONFIG) == pytest.approx(14 / 20)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_without_validation_a_loss_that_is_not_finite_is_not_a_score(loss: float) -> None:
    config = Config(**TINY | {"validation_clients": 0, "evaluation": {"every": 0}})
    values = NOTHING | {"round": 1, "skipped": False}
    assert score(RoundRecord(**values | {"measures": {"loss": loss}}), config) is None
    assert score(RoundRecord(**values | {"measures": {"loss": 2.0}}), config) == -2.0


@pytest.mark.parametrize(
    ("scale", "missing", "expected"),
    [
        (Measure(True, 0.0, 1.0), 0, 0.6),
        (Measure(True, -1.0, 1.0), 1, (0.6 - 1) / 2),
        (Measure(False, 0.0, 2.0), 1, -(0.6 + 2) / 2),
        (Measure(True), 1, None),
    ],
)
def test_any_main_measure_scores_and_a_missing_client_is_its_worst(
    scale: Measure, missing: int, expected: float | None
) -> None:
    sums = {"loss": [1.0], "gain": [3.0]}
    part = EvaluationSums(5, sums, {"loss": [1.0], "gain": [2.0]}, [0])
    results = merge([3], [part], {"loss": Measure(), "gain": scale}, 1 + missing)
    values = {"round": 4, "skipped": False, "measures": {"loss": 0.1}, "evaluation": results}
    assert score(RoundRecord(**NOTHING | values), CONFIG) == pytest.approx(expected)
