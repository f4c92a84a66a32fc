import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fedmeta.learning.models.norm import batch_norm


def draw(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)


def test_each_task_is_normalised_as_torch_does_it() -> None:
    x, weight, bias = draw(3, 10, 4), draw(3, 4), draw(3, 4)
    expected = [F.batch_norm(x[t], None, None, weight[t], bias[t], training=True) for t in range(3)]
    torch.testing.assert_close(batch_norm(x, weight, bias), torch.stack(expected))


def test_with_stat_rows_the_other_rows_are_normalised_by_those() -> None:
    x, weight, bias = draw(2, 10, 4), draw(2, 4), draw(2, 4)
    for task in range(2):
        seen = x[task, :6].detach()
        expected = F.batch_norm(
            x[task], seen.mean(0), seen.var(0, correction=0), weight[task], bias[task], training=False
        )
        torch.testing.assert_close(batch_norm(x, weight, bias, 6)[task], expected)


@pytest.mark.parametrize("rows", [None, 4])
def test_first_and_second_derivatives_are_right(rows: int | None) -> None:
    inputs = draw(2, 7, 3), draw(2, 3), draw(2, 3)
    assert torch.autograd.gradcheck(lambda *a: batch_norm(*a, rows), inputs)
    assert torch.autograd.gradgradcheck(lambda *a: batch_norm(*a, rows), inputs)
