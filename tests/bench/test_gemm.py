"""Operation counts, compared with products counted by hand."""

import torch

from fedmeta.bench.timing import count_flops, gemm, gemm_flops


def test_a_gemm_has_two_operations_per_triple_of_indices():
    assert gemm_flops() == 2 * 1024 * 1024 * 1024 == count_flops(gemm())


def test_first_and_second_derivatives_of_a_product_are_counted():
    # y = x w with x [2, 3], w [3, 5]: 60 operations. With x constant, dw = x' dy takes 60 more.
    x, w = torch.ones(2, 3), torch.ones(3, 5, requires_grad=True)
    assert count_flops(lambda: torch.autograd.grad((x @ w).sum(), w)) == 120
