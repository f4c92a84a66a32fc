"""MetaOptNet: a support vector machine on learned features."""

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.about import About
from fedmeta.learning.algorithm import Tensors
from fedmeta.learning.embedding import EmbeddingAlgorithm, Support
from fedmeta.learning.svm import dual_solution

HEAD = "head"
SCALE = "metaoptnet.scale"


class MetaOptNet(EmbeddingAlgorithm):
    """MetaOptNet-SVM: a task's classifier is a multi-class support vector machine on the embeddings.

    Lee, Maji, Ravichandran, Soatto 2019, "Meta-Learning with Differentiable Convex Optimization",
    section 3.2: the SVM of Crammer and Singer through its dual (equations 4 to 6), whose solution is
    differentiated by the implicit function theorem (section 3.3); the logits are the scores
    ``w_k . f(x)`` times a learned scale ``gamma`` (equation 12). See `fedmeta.learning.svm`: the dual is
    solved in float64 for any dtype of the run. A task may have any number of ways at test.

    Raises:
        ConfigError: If tasks are not classification with one label per example.
    """

    about = About(
        paper="Lee, Maji, Ravichandran, Soatto 2019, "
        '"Meta-Learning with Differentiable Convex Optimization"',
        year=2019,
        family="closed form",
        learns="an embedding, and the scale of the logits",
        sends="the query gradient through the support vector machine",
    )

    class Options(options.Options):
        """Options of MetaOptNet.

        Attributes:
            penalty: C, the weight of margin errors.
            logit_scale: Initial value of ``gamma``, which scales the logits.
        """

        penalty: float = Field(default=0.1, gt=0)
        logit_scale: float = Field(default=1.0, gt=0)

    options: Options

    @override
    def init_own(self, generator: torch.Generator) -> Tensors:
        """Return the initial scale of the logits."""
        return {SCALE: torch.tensor(self.options.logit_scale)}

    @override
    def condition(self, own: Tensors, support: Support) -> Tensors:
        """Return the weight vectors ``w_k``, ``[T, D, ways]``."""
        features = support.features * support.valid.unsqueeze(-1)
        precise = features.double()
        alpha = dual_solution(precise @ precise.mT, support.targets.double(), self.options.penalty)
        return {HEAD: features.mT @ alpha.to(features.dtype)}

    @override
    def answer(self, own: Tensors, known: Tensors, features: Tensor) -> Tensor:
        """Return the scores of the classes times the scale."""
        return own[SCALE].view(-1, 1, 1) * (features @ known[HEAD])
