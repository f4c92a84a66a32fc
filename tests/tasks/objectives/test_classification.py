import math

import torch

from fedmeta.tasks import TaskSpec
from fedmeta.tasks.objectives.classification import Classification

TWO = Classification(TaskSpec("classification", (1,), 2))
TEXT = Classification(TaskSpec("classification", (3,), 4, 4))


def test_cross_entropy_of_text_is_the_mean_over_positions() -> None:
    """Equal logits over 4 characters cost ln 4 at each position; a logit of ln 3 more makes p = 1/2."""
    logits = torch.zeros(2, 1, 3, 4)
    logits[1, 0, :, 2] = math.log(3)
    losses = TEXT.loss(logits, {"y": torch.full((2, 1, 3), 2)})
    torch.testing.assert_close(losses, torch.tensor([math.log(4), math.log(2)]))


def test_accuracy_counts_what_is_ranked_first() -> None:
    logits = torch.tensor([[[2.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
    measured = TWO.measure(logits, {"y": torch.tensor([[0, 0], [1, 1]])})
    assert measured["accuracy"].tolist() == [0.5, 1.0]


def test_padding_counts_neither_in_the_loss_nor_in_the_accuracy() -> None:
    """ln 2 for two equal logits; of the second task only the first label, ranked second at 1 : 3."""
    logits = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[0.0, math.log(3)], [9.0, 0.0]]])
    half = {"y": torch.tensor([[0, 1], [0, 0]]), "mask": torch.tensor([[True, True], [True, False]])}
    torch.testing.assert_close(TWO.loss(logits, half), torch.tensor([math.log(2), math.log(4)]))
    assert TWO.measure(logits, half)["accuracy"].tolist() == [0.5, 0.0]


def test_padding_of_a_text_counts_at_none_of_its_positions() -> None:
    logits = torch.zeros(1, 2, 3, 4)
    logits[0, 1] = torch.tensor([50.0, 0.0, 0.0, 0.0])
    half = {"y": torch.full((1, 2, 3), 2), "mask": torch.tensor([[True, False]])}
    torch.testing.assert_close(TEXT.loss(logits, half), torch.tensor([math.log(4)]))
