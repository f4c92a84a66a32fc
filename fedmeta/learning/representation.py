"""Compares what layers compute before and after adaptation, and projects features to two dimensions."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fedmeta.errors import ConfigError
from fedmeta.learning.algorithm import Algorithm, Tensors
from fedmeta.learning.device import CPU
from fedmeta.learning.fitted_head import identity_head
from fedmeta.learning.head import body_of
from fedmeta.tasks import Examples


def adapted_weights(algorithm: Algorithm, adapted: Tensors) -> Tensors | None:
    """Return the network's weights in adapted values; None if the method does not adapt them."""
    names = list(algorithm.model.init(torch.Generator()))
    if not names or any(name not in adapted for name in names):
        return None
    return {name: adapted[name] for name in names}


def layer_changes(before: Tensors, after: Tensors) -> dict[str, float | None]:
    """Return ``||after - before|| / ||before||`` of each layer's tensors together.

    A layer is what a name has before its last dot: ``conv0`` for ``conv0.weight``. It is 0 for one that
    does not change, and None for one that starts at 0.
    """
    layers: dict[str, list[str]] = {}
    for name in before:
        layers.setdefault(name.rpartition(".")[0] or name, []).append(name)

    def norm(values: list[Tensor]) -> float:
        return float(torch.cat([value.double().flatten() for value in values]).norm())

    found: dict[str, float | None] = {}
    for layer, names in layers.items():
        moved = norm([after[name] - before[name] for name in names])
        start = norm([before[name] for name in names])
        found[layer] = moved / start if start else None if moved else 0.0
    return found


def layer_similarities(
    algorithm: Algorithm, before: Tensors, after: Tensors, x: Tensor
) -> dict[str, float | None]:
    """Return `linear_cka` of each layer's outputs with two sets of weights; empty if it shows none.

    Args:
        algorithm: Whose network it is.
        before: Weights, ``[1, ...]``.
        after: Others.
        x: Inputs, ``[1, B, *input]``.
    """
    with torch.no_grad():
        one, other = (algorithm.model.activations(weights, x) for weights in (before, after))
    return {layer: linear_cka(one[layer][0], other[layer][0]) for layer in one if layer in other}


def linear_cka(one: Tensor, other: Tensor) -> float | None:
    """Return the linear centered kernel alignment of two layers' outputs on the same examples.

    Kornblith, Norouzi, Lee, Hinton 2019, "Similarity of Neural Network Representations Revisited",
    section 3: with centred columns ``||Y' X||^2 / (||X' X|| ||Y' Y||)`` (Frobenius norms), here by the
    Gram matrices ``X X'``, which are small. 1 for outputs that are equal up to rotation and scale.

    Args:
        one: ``[B, ...]``, one row for each example.
        other: ``[B, ...]``; rows may have another length.

    Returns:
        From 0 to 1; None if an output is the same for all examples, or is not finite.
    """
    x, y = (_centred(values) for values in (one, other))
    first, second = x @ x.T, y @ y.T
    scale = float(first.norm() * second.norm())
    value = float((first * second).sum()) / scale if scale else float("nan")
    return min(max(value, 0.0), 1.0) if abs(value) < float("inf") else None


def _centred(values: Tensor) -> Tensor:
    rows = values.flatten(1).to(CPU, torch.float64)
    centred = rows - rows.mean(0)
    # Constant columns may differ from their mean by rounding.
    return centred.where(centred.abs() > 1e-12 * rows.abs().max(), 0.0)


class Projection(NamedTuple):
    """Features on their two principal components.

    Attributes:
        points: ``[B, 2]``.
        shares: Parts of the features' variance along both.
    """

    points: Tensor
    shares: tuple[float, float]


def project(features: Tensor) -> Projection:
    """Project ``[B, D]`` to two dimensions by principal component analysis.

    The signs of the components are those with which their largest entry is positive.
    """
    centred = _centred(features)
    _, sizes, rows = torch.linalg.svd(centred, full_matrices=False)
    rows = rows[:2]
    rows = rows * rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()
    points = centred @ rows.T
    missing = 2 - points.shape[1]
    points = F.pad(points, (0, missing))
    total = float(sizes.square().sum()) or 1.0
    shares = [*(float(size) ** 2 / total for size in sizes[:2]), 0.0, 0.0]
    return Projection(points, (shares[0], shares[1]))


def separation(features: Tensor, labels: Tensor) -> float | None:
    """Return the part of the variance of ``features [B, D]`` that lies between the means of the classes.

    1 if all examples of a class have the same features, about 0 if classes do not differ; None if there
    is no variance.
    """
    centred = _centred(features)
    total = float(centred.square().sum())
    means = torch.zeros_like(centred)
    for label in sorted(set(labels.tolist())):
        own = labels == label
        means[own] = centred[own].mean(0)
    return float(means.square().sum()) / total if total else None


def features_of(
    algorithm: Algorithm, weights: Tensors, examples: Examples, support_x: Tensor | None = None
) -> Tensor | None:
    """Return the network's features ``[T, B, D]``: its embedding, or what its last linear layer gets.

    Args:
        algorithm: Whose network it is.
        weights: Those of the network, ``[T, ...]``; others are ignored.
        examples: The inputs.
        support_x: Inputs for the statistics of batch norm; None: the examples' own.

    Returns:
        None if the network does not end in a linear layer.
    """
    model, objective = algorithm.model, algorithm.objective
    params = {name: weights[name] for name in model.init(torch.Generator())}
    network = model
    if algorithm.model_outputs(algorithm.spec) is not None:
        body = body_of(model, objective)
        if body is not None:
            network = body
            params = {name: params[name] for name in body.init(torch.Generator())}
        else:
            try:
                head = identity_head(model, algorithm.spec)
            except ConfigError:
                return None
            for key, value in head.items():
                params[key] = value.to(params[key]).expand(len(params[key]), *value.shape)
    with torch.no_grad():
        return objective.forward(network, params, examples, support_x).flatten(2)
