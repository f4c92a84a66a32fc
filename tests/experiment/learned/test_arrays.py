"""A user's arrays are converted where that is unambiguous, and refused otherwise."""

import numpy as np
import pytest
import torch

from fedmeta.errors import UsageError
from fedmeta.experiment.learned.adapted import to_inputs, to_targets
from fedmeta.tasks import TaskSpec, build_objective
from fedmeta.tasks.graph import GraphShape

FLAT = TaskSpec("classification", (64,), 3)
IMAGE = TaskSpec("classification", (1, 8, 8), 3)
TEXT = TaskSpec("classification", (5,), 7, vocabulary=7)


@pytest.mark.parametrize("shape", [(2, 64), (2, 8, 8), (2, 1, 8, 8)])
def test_an_image_may_be_flat_or_not(shape: tuple[int, ...]) -> None:
    x = np.arange(128, dtype=np.float64).reshape(shape)
    read = to_inputs(FLAT, torch.float32, x, "x")
    assert read.dtype == torch.float32
    assert read.tolist() == x.reshape(2, 64).tolist()


def test_an_axis_of_one_may_be_missing_and_no_other() -> None:
    assert to_inputs(IMAGE, torch.float64, np.ones((2, 8, 8)), "x").shape == (2, 1, 8, 8)
    with pytest.raises(UsageError, match=r"x has shape \[2, 64\], but this run reads \['B', 1, 8, 8\]"):
        to_inputs(IMAGE, torch.float32, np.ones((2, 64)), "x")
    with pytest.raises(UsageError, match="has shape"):
        to_inputs(TaskSpec("classification", (1, 4, 16), 3), torch.float32, np.ones((2, 8, 8)), "x")


def test_text_is_tokens() -> None:
    x = [[0, 1, 2, 3, 6]]
    assert to_inputs(TEXT, torch.float32, x, "x").dtype == torch.int64
    assert to_targets(build_objective(TEXT), torch.float32, x, 1).classes is None
    for wrong in ([[0, 1, 2, 3, 7]], [[0, 1, 2, 3, -1]], [[0.0, 1.0, 2.0, 3.0, 4.0]]):
        with pytest.raises(UsageError, match="tokens, integers from 0 to 6"):
            to_inputs(TEXT, torch.float32, wrong, "x")
    with pytest.raises(UsageError, match=r"support_y has shape \[1, 4\]"):
        to_targets(build_objective(TEXT), torch.float32, [[0, 1, 2, 3]], 1)


def test_graphs_have_numbers_in_their_ranges() -> None:
    # Two properties of 3 and 2 values, one neighbour of three rows, two types of edges.
    spec = TaskSpec("classification", (3, 4), 2, graph=GraphShape((3, 2), 1, 2))
    good = np.zeros((2, 3, 4))
    good[1, 2] = [2, 1, 3, 1]
    assert to_inputs(spec, torch.float32, good, "x").tolist() == good.tolist()
    for column, value in ((0, 3), (1, 2), (2, 4), (3, 2), (0, -1), (2, 1.5)):
        wrong = good.copy()
        wrong[0, 1, column] = value
        with pytest.raises(
            UsageError, match=r"x holds numbers that do not encode graphs; see fedmeta\."
        ):
            to_inputs(spec, torch.float32, wrong, "x")


def test_an_array_with_negative_strides_or_read_only_memory_is_accepted() -> None:
    x = np.arange(128.0).reshape(2, 8, 8)[:, ::-1]
    assert to_inputs(FLAT, torch.float32, x, "x")[0, 0] == 56.0
    frozen = np.ones((2, 64))
    frozen.flags.writeable = False
    assert to_inputs(FLAT, torch.float32, frozen, "x").shape == (2, 64)
