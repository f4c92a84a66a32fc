"""Ratings: the error in stars, and the gain against scikit-learn and by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score

from fedmeta.tasks import TaskSpec
from fedmeta.tasks.objective import build_objective
from fedmeta.tasks.objectives.ratings import normalised_gain

SPEC = TaskSpec("ratings", (3,), 1)


@pytest.mark.parametrize("values", [1, 3, 1000])
def test_the_gain_is_scikit_learns_with_and_without_equal_predictions(values: int) -> None:
    rng = np.random.default_rng(values)
    for size in (2, 5, 6, 40):
        scores = rng.integers(values, size=size)
        stars = rng.integers(1, 6, size)
        ours = normalised_gain(torch.from_numpy(scores).double(), torch.from_numpy(stars).double())
        assert float(ours) == pytest.approx(ndcg_score([2.0**stars - 1], [scores], k=5), abs=1e-12)


def test_the_gain_by_hand() -> None:
    stars = torch.tensor([1.0, 3.0])
    best, worst = 7 + 1 / math.log2(3), 1 + 7 / math.log2(3)
    assert float(normalised_gain(torch.tensor([0.0, 1.0]), stars)) == 1.0
    reverse = float(normalised_gain(torch.tensor([1.0, 0.0]), stars))
    assert reverse == pytest.approx(worst / best)
    # A tie is either order, equally likely.
    tie = float(normalised_gain(torch.zeros(2), stars))
    assert tie == pytest.approx((best + worst) / 2 / best)


def test_the_error_is_in_stars_and_each_task_is_measured_without_its_padding() -> None:
    objective = build_objective(SPEC)
    target = torch.tensor([[1.5, -2.5, 0.5], [0.5, 0.5, -0.5]]).unsqueeze(2)
    prediction = torch.tensor([[1.0, -1.5, 9.0], [0.5, 0.0, 1.5]]).unsqueeze(2)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    found = objective.measure(prediction, {"x": torch.zeros(2, 3, 3), "y": target, "mask": mask})
    assert found["mae"].tolist() == pytest.approx([0.75, 2.5 / 3])
    assert float(found["ndcg_5"][0]) == 1.0
    # The 3 stars come first, then the two films of 4 stars.
    places = [1 / math.log2(place) for place in (2, 3, 4)]
    best = 15 * places[0] + 15 * places[1] + 7 * places[2]
    gain = 7 * places[0] + 15 * places[1] + 15 * places[2]
    assert float(found["ndcg_5"][1]) == pytest.approx(gain / best)


def test_the_loss_is_the_squared_error() -> None:
    objective = build_objective(SPEC)
    target = torch.tensor([[[1.5], [-2.5]]])
    loss = objective.loss(torch.zeros(1, 2, 1), {"x": torch.zeros(1, 2, 3), "y": target})
    assert loss.tolist() == [(1.5**2 + 2.5**2) / 2]


@pytest.mark.parametrize("odd", [-3.0, 2.0])
def test_targets_that_are_no_ratings_are_refused(odd: float) -> None:
    objective = build_objective(SPEC)
    examples = {"x": torch.zeros(1, 2, 3), "y": torch.tensor([[[0.5], [odd]]])}
    with pytest.raises(ValueError, match=f"query_y holds {odd:g}, but ratings are 1 to 5 stars"):
        objective.check(examples, "query")
    examples["y"][0, 1] = 1.5
    assert objective.check(examples, "query") == examples


def test_made_up_targets_are_ratings() -> None:
    objective = build_objective(SPEC)
    x = torch.zeros(20, 50, 3)
    made = objective.made_up_targets(x, torch.Generator().manual_seed(0))
    assert made is not None
    assert set((made["y"] + 3.5).flatten().tolist()) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert objective.check({"x": x, **made}, "support")["y"].shape == (20, 50, 1)
