"""Attention of support and query examples on the task axis."""

import math

import torch
from torch import Tensor


def attend(
    query: Tensor, key: Tensor, value: Tensor, allowed: Tensor, seen: list[Tensor] | None = None
) -> Tensor:
    """Attend to the support examples; a query example also attends to itself, but to no other.

    Scaled dot products (Vaswani et al. 2017, equation 1). The example axis holds S support examples,
    then Q query examples: each query ends a sequence of its own, with the same support before it.

    Args:
        query: ``[T, S + Q, K]``.
        key: ``[T, S + Q, K]``.
        value: ``[T, S + Q, V]``.
        allowed: ``[T or 1, S + Q, S]``, which support examples each example may read from.
        seen: Gets the weights ``[T, S + Q, S + 1]``, an example's own last; None: they are not kept.

    Returns:
        ``[T, S + Q, V]``.
    """
    size = allowed.shape[-1]
    scores = (query @ key[:, :size].mT).masked_fill(~allowed, -torch.inf)
    rows = torch.arange(query.shape[1], device=query.device).view(-1, 1)
    itself = (query * key).sum(-1, keepdim=True).masked_fill(rows < size, -torch.inf)
    weights = (torch.cat([scores, itself], -1) / math.sqrt(key.shape[-1])).softmax(-1)
    if seen is not None:
        seen.append(weights)
    return weights[..., :size] @ value[:, :size] + weights[..., size:] * value
