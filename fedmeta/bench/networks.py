"""The rival's networks: plain torch modules, with the weights of our states.

They are built on the meta device, where a constructor draws no random numbers.
"""

from torch import Tensor, nn

from fedmeta.learning import Tensors


class MeanPixel(nn.Module):
    """Average over the pixels of ``[B, C, H, W]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, C]``."""
        return x.mean((2, 3))


def mlp(state: Tensors) -> nn.Module:
    """Build the module of an `MLP` state with ReLUs; its parameters are ours in the same order."""
    weights = [value for key, value in state.items() if key.endswith("weight")]
    biases = [value for key, value in state.items() if key.endswith("bias")]
    layers: list[nn.Module] = []
    for weight, bias in zip(weights, biases, strict=True):
        layers += [_linear(weight, bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def conv4(state: Tensors) -> nn.Module:
    """Build the module of a strided `Conv4` state for images of one channel ``[B, H, W]``."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, -1))]
    for block in range(4):
        kernels = convolution_kernels(state[f"conv{block}.weight"])
        width, channels = kernels.shape[:2]
        convolution = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False, device="meta")
        convolution.weight = nn.Parameter(kernels)
        norm = nn.BatchNorm2d(width, track_running_stats=False, device="meta")
        norm.weight = nn.Parameter(state[f"norm{block}.weight"].clone())
        norm.bias = nn.Parameter(state[f"norm{block}.bias"].clone())
        layers += [convolution, norm, nn.ReLU()]
    return nn.Sequential(*layers, MeanPixel(), _linear(state["head.weight"], state["head.bias"]))


def as_module_parameter(key: str, value: Tensor) -> Tensor:
    """Lay a tensor of our state, or of its gradient, out as the module's parameter is."""
    if key.startswith("conv"):
        return convolution_kernels(value)
    return value.T.contiguous() if value.dim() == 2 else value.clone()


def convolution_kernels(weight: Tensor) -> Tensor:
    """Turn ``[9 * C, D]``, rows by kernel row, kernel column and channel, into ``[D, C, 3, 3]``."""
    return weight.view(3, 3, -1, weight.shape[1]).permute(3, 2, 0, 1).contiguous()


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[0], weight.shape[1], device="meta")
    layer.weight = nn.Parameter(as_module_parameter("weight", weight))
    layer.bias = nn.Parameter(bias.clone())
    return layer
