"""The area under the ROC curve, against scikit-learn and by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from fedmeta.tasks import TaskSpec
from fedmeta.tasks.objective import build_objective
from fedmeta.tasks.objectives.screening import area_under_curve

SPEC = TaskSpec("screening", (3,), 2)


@pytest.mark.parametrize("values", [2, 5, 1000])
def test_the_area_is_scikit_learns_with_and_without_equal_scores(values: int) -> None:
    rng = np.random.default_rng(values)
    for size in (2, 7, 300):
        scores = rng.integers(values, size=size).astype(np.float32)
        active = rng.random(size) < 0.3
        active[:2] = True, False
        ours = area_under_curve(torch.from_numpy(scores), torch.from_numpy(active))
        assert float(ours) == pytest.approx(roc_auc_score(active, scores), abs=1e-6)


def test_the_area_counts_pairs_in_the_right_order() -> None:
    scores, active = torch.tensor([3.0, 2.0, 2.0, 1.0]), torch.tensor([True, True, False, False])
    # Of four pairs three are in order, and one is a tie.
    assert float(area_under_curve(scores, active)) == 0.875
    assert float(area_under_curve(-scores, active)) == 0.125


def test_the_area_of_a_single_class_is_that_of_a_guess() -> None:
    for active in (True, False):
        assert float(area_under_curve(torch.randn(4), torch.full((4,), active))) == 0.5


def test_each_task_is_measured_without_its_padding_and_the_number_of_inactive_examples() -> None:
    objective = build_objective(SPEC)
    logits = torch.tensor([[[0.0, 2.0], [0.0, 1.0], [0.0, 9.0]], [[3.0, 0.0], [0.0, 0.5], [1.0, 0.0]]])
    labels = torch.tensor([[1, 0, 0], [0, 0, 1]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    found = objective.measure(logits, {"x": torch.zeros(2, 3, 3), "y": labels, "mask": mask})
    assert found["auc"].tolist() == [1.0, 0.5]
    without = objective.measure(logits, {"x": torch.zeros(2, 3, 3), "y": labels})
    assert without["auc"].tolist() == [0.5, 0.5]
    twice = {"x": torch.zeros(2, 6, 3), "y": labels.repeat(1, 2)}
    assert objective.measure(logits.repeat(1, 2, 1), twice)["auc"].tolist() == [0.5, 0.5]
