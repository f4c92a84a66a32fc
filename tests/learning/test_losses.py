import math

import torch

from fedmeta.learning import per_task_accuracy, per_task_loss
from fedmeta.tasks import TaskSpec


def test_squared_error_is_the_mean_per_task() -> None:
    """(1 + 9) / 2 = 5 and (0 + 4) / 2 = 2."""
    prediction = torch.tensor([[[1.0], [3.0]], [[0.0], [2.0]]])
    losses = per_task_loss(TaskSpec("regression", (1,), 1), prediction, torch.zeros(2, 2, 1))
    assert losses.tolist() == [5.0, 2.0]


def test_cross_entropy_of_text_is_the_mean_over_positions() -> None:
    """Equal logits over 4 characters cost ln 4 at each position; a logit of ln 3 more makes p = 1/2."""
    logits = torch.zeros(2, 1, 3, 4)
    logits[1, 0, :, 2] = math.log(3)
    losses = per_task_loss(TaskSpec("classification", (3,), 4, 4), logits, torch.full((2, 1, 3), 2))
    torch.testing.assert_close(losses, torch.tensor([math.log(4), math.log(2)]))


def test_accuracy_counts_what_is_ranked_first() -> None:
    logits = torch.tensor([[[2.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
    assert per_task_accuracy(logits, torch.tensor([[0, 0], [1, 1]])).tolist() == [0.5, 1.0]
