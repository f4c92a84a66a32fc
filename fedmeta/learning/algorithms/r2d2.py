"""R2-D2: ridge regression on learned features, in closed form."""

import math

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.about import About
from fedmeta.learning.algorithm import Tensors
from fedmeta.learning.embedding import EmbeddingAlgorithm, Support
from fedmeta.learning.layers import with_one

HEAD = "head"
LOG_RIDGE, SCALE, SHIFT = "r2d2.log_ridge", "r2d2.scale", "r2d2.shift"


class R2D2(EmbeddingAlgorithm):
    """R2-D2: a task's classifier is a ridge regression from embeddings to one-hot labels.

    Bertinetto, Henriques, Torr, Vedaldi 2019, "Meta-learning with Differentiable Closed-form Solvers",
    section 3.2: ``W = X^T (X X^T + lambda I)^-1 Y`` by the Woodbury identity, which solves a system of
    S rows for S support examples, however many features there are. The logits are
    ``alpha X' W + beta``. The gradient of their cross-entropy flows through the solution to the
    embedding's weights and to ``lambda``, ``alpha`` and ``beta``; the state holds ``log lambda``, so
    that ``lambda`` stays positive. As in the authors' code, a constant feature gives ``W`` a bias. A
    task may have any number of ways at test.

    Raises:
        ConfigError: If tasks are not classification with one label per example.
    """

    about = About(
        paper="Bertinetto, Henriques, Torr, Vedaldi 2019, "
        '"Meta-learning with Differentiable Closed-form Solvers"',
        year=2019,
        family="closed form",
        learns="an embedding, the ridge penalty, and scale and shift of the logits",
        sends="the query gradient through the ridge regression",
    )

    class Options(options.Options):
        """Options of R2-D2; the initial values are those of the authors' runs on Omniglot.

        Attributes:
            ridge: Initial value of the regularisation ``lambda``.
            logit_scale: Initial value of ``alpha``, which scales the logits; ``beta`` starts at 0.
        """

        ridge: float = Field(default=50.0, gt=0)
        logit_scale: float = Field(default=10.0, gt=0)

    options: Options

    @override
    def init_own(self, generator: torch.Generator) -> Tensors:
        """Return the initial ``log lambda``, ``alpha`` and ``beta``."""
        return {
            LOG_RIDGE: torch.tensor(math.log(self.options.ridge)),
            SCALE: torch.tensor(self.options.logit_scale),
            SHIFT: torch.tensor(0.0),
        }

    @override
    def condition(self, own: Tensors, support: Support) -> Tensors:
        """Return ``W [T, D + 1, ways]``."""
        features = with_one(support.features) * support.valid.unsqueeze(-1)
        identity = torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
        kernel = features @ features.mT + own[LOG_RIDGE].exp().view(-1, 1, 1) * identity
        # Not `solve`, which raises where features are not finite: such an update is refused later.
        return {HEAD: features.mT @ torch.linalg.solve_ex(kernel, support.targets).result}

    @override
    def answer(self, own: Tensors, known: Tensors, features: Tensor) -> Tensor:
        """Return ``alpha X' W + beta``."""
        scale, shift = own[SCALE].view(-1, 1, 1), own[SHIFT].view(-1, 1, 1)
        return scale * (with_one(features) @ known[HEAD]) + shift
