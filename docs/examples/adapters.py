"""A pretrained network that stays frozen, with low-rank adapters and a head that are learned."""

from safetensors.torch import load_file
from torch import Tensor, nn

from fedmeta.learning import add_adapters


class Adapted(nn.Module):
    """The body of an exported ``mlp``, with adapters, and a new head.

    Args:
        base: File of the exported weights.
        outputs: Outputs of the head.
        rank: Rank of the adapters.
    """

    def __init__(self, base: str, outputs: int = 5, rank: int = 4) -> None:
        super().__init__()
        body = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
        weights = load_file(base)
        body.load_state_dict({key: weights[key] for key in body.state_dict()})
        self.body = add_adapters(body, rank)
        self.head = nn.Linear(64, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Compute ``[B, outputs]`` from images ``[B, 1, 8, 8]``."""
        result: Tensor = self.head(self.body(x))
        return result
