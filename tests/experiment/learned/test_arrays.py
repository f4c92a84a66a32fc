"""A user's arrays are converted where that is unambiguous, and refused otherwise."""

import numpy as np
import pytest
import torch

from fedmeta.errors import UsageError
from fedmeta.experiment.learned.adapted import to_inputs, to_targets
from fedmeta.tasks import TaskSpec, build_objective

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


def test_an_array_with_negative_strides_or_read_only_memory_is_accepted() -> None:
    x = np.arange(128.0).reshape(2, 8, 8)[:, ::-1]
    assert to_inputs(FLAT, torch.float32, x, "x")[0, 0] == 56.0
    frozen = np.ones((2, 64))
    frozen.flags.writeable = False
    assert to_inputs(FLAT, torch.float32, frozen, "x").shape == (2, 64)
