import pytest
import torch

from fedmeta.tasks import TaskSpec
from fedmeta.tasks.objectives.regression import Regression

WAVES = Regression(TaskSpec("regression", (1,), 1))


def test_squared_error_is_the_mean_per_task() -> None:
    """(1 + 9) / 2 = 5 and (0 + 4) / 2 = 2."""
    prediction = torch.tensor([[[1.0], [3.0]], [[0.0], [2.0]]])
    assert WAVES.loss(prediction, {"y": torch.zeros(2, 2, 1)}).tolist() == [5.0, 2.0]


def test_padding_does_not_count() -> None:
    """(1 + 9) / 2 = 5, and of the second task the second point alone, 4."""
    prediction = torch.tensor([[[1.0], [3.0]], [[7.0], [2.0]]])
    half = {"y": torch.zeros(2, 2, 1), "mask": torch.tensor([[True, True], [False, True]])}
    assert WAVES.loss(prediction, half).tolist() == [5.0, 4.0]


def test_a_prediction_of_another_shape_is_not_broadcast() -> None:
    with pytest.raises(ValueError, match=r"predictions are \[1, 2\], targets \[1, 2, 1\]"):
        WAVES.loss(torch.zeros(1, 2), {"y": torch.zeros(1, 2, 1)})
