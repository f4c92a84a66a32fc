import math

import pytest
import torch
import torch.nn.functional as F

from fedmeta.learning.layers import convolve, preprocessed


@pytest.mark.parametrize("stride", [1, 2])
def test_each_task_is_convolved_with_its_own_kernel(stride: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 7, 6, 4, generator=generator, dtype=torch.float64)
    kernels = torch.randn(2, 5, 4, 3, 3, generator=generator, dtype=torch.float64)
    rows = kernels.permute(0, 3, 4, 2, 1).reshape(2, 36, 5)
    actual = convolve(images, rows, stride)
    for task in range(2):
        planes = images[task].permute(0, 3, 1, 2)
        expected = F.conv2d(planes, kernels[task], stride=stride, padding=1).permute(0, 2, 3, 1)
        torch.testing.assert_close(actual[task], expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_first_and_second_derivatives_are_right(stride: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 2, 5, 4, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, 18, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: convolve(x, w, stride), (images, weight))
    assert torch.autograd.gradgradcheck(lambda x, w: convolve(x, w, stride), (images, weight))


@pytest.mark.parametrize(
    ("p", "given", "expected"),
    [
        (
            10.0,
            [math.e, -math.exp(-5.0), math.exp(-11.0), 0.0],
            [[0.1, 1.0], [-0.5, -1.0], [-1.0, math.exp(-1.0)], [-1.0, 0.0]],
        ),
        (
            7.0,
            [math.exp(-3.4), -math.exp(-14.0), 0.0],
            [[-3.4 / 7, 1.0], [-1.0, -math.exp(-7.0)], [-1.0, 0.0]],
        ),
    ],
)
def test_small_numbers_are_scaled_and_large_ones_become_logarithms(
    p: float, given: list[float], expected: list[list[float]]
) -> None:
    found = preprocessed(torch.tensor(given, dtype=torch.float64), p)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
