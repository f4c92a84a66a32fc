import torch

from fedmeta.tasks import TaskSpec, build_objective
from fedmeta.tasks.objectives.clinical_score import ClinicalScore

SCORE = ClinicalScore(TaskSpec("clinical_score", (1,), 1))


def test_the_error_is_in_points_and_the_loss_in_tens_of_them() -> None:
    """Off by 0.1 and 0.3 of ten points: 1 and 3 points, 2 on average; (0.01 + 0.09) / 2 = 0.05."""
    prediction = torch.tensor([[[1.1], [1.7]]])
    half = {"y": torch.tensor([[[1.0], [2.0]]])}
    torch.testing.assert_close(SCORE.measure(prediction, half)["mae"], torch.tensor([2.0]))
    torch.testing.assert_close(SCORE.loss(prediction, half), torch.tensor([0.05]))


def test_models_are_compared_by_the_error_in_points() -> None:
    objective = build_objective(TaskSpec("clinical_score", (1,), 1))
    assert objective.main == "mae"
    assert not objective.measures["mae"].higher_is_better


def test_padding_does_not_count() -> None:
    half = {"y": torch.zeros(1, 2, 1), "mask": torch.tensor([[True, False]])}
    assert SCORE.measure(torch.tensor([[[0.2], [9.0]]]), half)["mae"].round(decimals=4).tolist() == [2.0]
