"""Clipping by Euclidean norm."""

import torch
from pydantic import Field
from typing_extensions import override

from fedmeta import options
from fedmeta.federation.postprocessors import Postprocessor
from fedmeta.learning import Tensors


class Clip(Postprocessor):
    """Scales down an update with a larger norm: ``g min(1, norm / |g|)``, over all its tensors.

    Pascanu, Mikolov, Bengio 2013, "On the Difficulty of Training Recurrent Neural Networks",
    Algorithm 1. At the client it bounds what one client can change, as in McMahan, Ramage, Talwar,
    Zhang 2018, "Learning Differentially Private Recurrent Language Models", Algorithm 1.
    """

    class Options(options.Options):
        """Options of the clipping.

        Attributes:
            norm: Largest Euclidean norm.
        """

        norm: float = Field(gt=0)

    options: Options

    @override
    def apply(self, updates: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        squares = [value.double().flatten(1).square().sum(1) for value in updates.values()]
        lengths = torch.stack(squares).sum(0).sqrt()
        # Updates within the norm keep their exact bits.
        scale = self.options.norm / lengths.clamp(min=self.options.norm)
        clipped = {
            key: value * scale.to(value.dtype).view(-1, *[1] * (value.dim() - 1))
            for key, value in updates.items()
        }
        return clipped, state
