"""Sparse updates with error feedback."""

import torch
from typing_extensions import override

from fedmeta import options
from fedmeta.federation.postprocessors import Postprocessor
from fedmeta.learning import Tensors


class TopTenth(Postprocessor):
    """Sends the largest tenth of each tensor, and adds the rest to the next update.

    Stich, Cordonnier, Jaggi 2018, "Sparsified SGD with Memory", Algorithm 1, with k a tenth.
    """

    class Options(options.Options):
        """No options."""

    @override
    def init(self, template: Tensors) -> Tensors:
        """Return zeros: nothing was left out so far."""
        return {key: torch.zeros_like(value) for key, value in template.items()}

    @override
    def apply(self, updates: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """Return the largest values of update plus memory, and the rest."""
        sent, left = {}, {}
        for key, value in updates.items():
            whole = (value + state[key]).flatten(1)
            count = max(1, whole.shape[1] // 10)
            places = whole.abs().topk(count, dim=1).indices
            kept = torch.zeros_like(whole).scatter(1, places, whole.gather(1, places))
            sent[key], left[key] = kept.view_as(value), (whole - kept).view_as(value)
        return sent, left
