"""Networks in the shapes in which people publish them: images ``[B, 1, 8, 8]`` or tokens ``[B, 6]``."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WAYS = 3


class PlainConv(nn.Module):
    """Two convolutions and two linear layers, as in PyTorch's own example; dropout by module."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3)
        self.drop = nn.Dropout2d(dropout)
        self.fc1, self.fc2 = nn.Linear(24, 10), nn.Linear(10, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class FunctionalDropout(PlainConv):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.4, training=self.training))


class Residual(nn.Module):
    """A block of ResNet-12 (Oreshkin et al. 2018), with in-place activations."""

    def __init__(self, inputs: int, outputs: int, running: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (inputs, outputs, outputs):
            layers += [
                nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs, track_running_stats=running),
                nn.LeakyReLU(0.1, inplace=True),
            ]
        self.body = nn.Sequential(*layers[:-1])
        self.short = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs, track_running_stats=running),
        )
        self.act = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        y += self.short(x)
        return F.max_pool2d(self.act(y), 2)


class ResNet12(nn.Module):
    def __init__(self, running: bool = False) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Residual(1, 3, running), Residual(3, 4, running))
        self.head = nn.Linear(16, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x).flatten(1))


class OddEps(nn.Module):
    """Batch norm with the eps of TensorFlow, and without scale and shift."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4, eps=0.01, affine=False)
        self.head = nn.Linear(144, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.conv(x))).flatten(1))


def _normed(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.SiLU(), nn.Flatten(), nn.Linear(144, WAYS))


class GroupNormNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = _normed(nn.GroupNorm(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class LayerNormNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = _normed(nn.LayerNorm([4, 6, 6]))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class InstanceNormNet(nn.Module):
    def __init__(self, running: bool = False) -> None:
        super().__init__()
        self.net = _normed(nn.InstanceNorm2d(4, affine=True, track_running_stats=running))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class WeightNormNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.utils.parametrizations.weight_norm(nn.Linear(64, 12))
        self.b = nn.Linear(12, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x.flatten(1))))


class SpectralNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.utils.parametrizations.spectral_norm(nn.Linear(64, 12))
        self.b = nn.Linear(12, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x.flatten(1))))


class TiedLanguageModel(nn.Module):
    """Embedding and decoder share one matrix (Press, Wolf 2017)."""

    def __init__(self, tokens: int = 7, size: int = 5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, size)
        self.rnn = nn.GRU(size, size, batch_first=True)
        self.out = nn.Linear(size, tokens, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(self.embedding(x))[0])


class StackedLSTM(nn.Module):
    def __init__(self, tokens: int = 7, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, 4)
        self.rnn = nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True, dropout=dropout)
        self.out = nn.Linear(10, tokens)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(self.embedding(x))[0])


class CausalTransformer(nn.Module):
    """A decoder with a causal mask and sinusoidal positions, both as buffers that no state_dict has."""

    def __init__(self, tokens: int = 7, length: int = 6, size: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, size)
        layer = nn.TransformerEncoderLayer(size, 2, 12, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.out = nn.Linear(size, tokens)
        angles = torch.arange(length)[:, None] / 10 ** (torch.arange(size // 2) / size)
        self.register_buffer("positions", torch.cat([angles.sin(), angles.cos()], 1), persistent=False)
        mask = torch.triu(torch.full((length, length), -math.inf), 1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embedding(x) + self.positions
        return self.out(self.layers(hidden, mask=self.mask))


class VisionTransformer(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8) * 0.02)
        layer = nn.TransformerEncoderLayer(
            8, 2, 16, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(8, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch(x).flatten(2).transpose(1, 2)
        hidden = torch.cat([self.token.expand(len(x), -1, -1), patches], 1)
        return self.head(self.layers(hidden)[:, 0])


class FusedAttention(nn.Module):
    """Attention by the fused function, as in today's language models."""

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.qkv, self.head, self.p = nn.Linear(8, 24), nn.Linear(64, WAYS), p

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.squeeze(1)).chunk(3, -1)
        return self.head(F.scaled_dot_product_attention(q, k, v, dropout_p=self.p).flatten(1))


class FrozenBackbone(nn.Module):
    """A fixed random trunk, its batch norm in evaluation mode, and a head that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        nn.init.uniform_(self.trunk[1].running_mean, -1, 1)  # type: ignore[arg-type]
        nn.init.uniform_(self.trunk[1].running_var, 1, 2)  # type: ignore[arg-type]
        self.trunk.requires_grad_(False).eval()
        self.head = nn.Linear(144, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.trunk(x)
        return self.head(features.flatten(1))


class LowRank(nn.Module):
    """A frozen layer with a low-rank adapter (Hu et al. 2021, LoRA)."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(64, 10).requires_grad_(False)
        self.down = nn.Parameter(torch.randn(64, 2) / 8)
        self.up = nn.Parameter(torch.zeros(2, 10))
        self.head = nn.Linear(10, WAYS).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.head(torch.tanh(self.base(x) + x @ self.down @ self.up))


class RandomFeatures(nn.Module):
    """Random Fourier features in a buffer (Rahimi, Recht 2007)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("omega", torch.randn(64, 20) / 4)
        self.head = nn.Linear(40, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1) @ self.omega
        return self.head(torch.cat([z.sin(), z.cos()], 1))


class LazyNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(WAYS))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class InPlaceInput(nn.Module):
    """Normalises the batch that it is given, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(64, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.5).div_(0.25)
        return self.net(x.flatten(1))


class MultiTask(nn.Module):
    """Returns its predictions and its features."""

    def __init__(self, alone: bool = False) -> None:
        super().__init__()
        self.features, self.head, self.alone = nn.Linear(64, 6), nn.Linear(6, WAYS), alone

    def forward(self, x: Tensor) -> Any:
        features = torch.relu(self.features(x.flatten(1)))
        return self.head(features) if self.alone else (self.head(features), features)


class Autocast(nn.Module):
    """Mixed precision by autocast, and its predictions in float32 again."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, WAYS))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype == torch.float32):
            return self.net(x).to(x.dtype)


class HalfWeights(nn.Module):
    def __init__(self, kind: str = "float16") -> None:
        super().__init__()
        self.net = nn.Linear(64, WAYS, dtype=getattr(torch, kind))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(1).to(self.net.weight.dtype)).float()


class SqueezeExcite(nn.Module):
    """Convolutions with a gate per channel (Hu et al. 2018), depthwise, hard-swish."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.depth = nn.Conv2d(4, 4, 3, groups=4)
        self.gate = nn.Sequential(nn.Linear(4, 2), nn.ReLU(inplace=True), nn.Linear(2, 4), nn.Sigmoid())
        self.head = nn.Linear(4, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depth(F.softplus(self.conv(x)))
        y = y * self.gate(y.mean((2, 3)))[:, :, None, None]
        return self.head(y.mean((2, 3)))


class UpDown(nn.Module):
    """An autoencoder's shape: transposed convolution, bilinear upsampling, average pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 3, 3, stride=2), nn.ConvTranspose2d(3, 2, 2, stride=2)
        self.head = nn.Linear(2 * 4, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.up(torch.tanh(self.down(x))))
        y = F.interpolate(y, scale_factor=1.5, mode="bilinear")
        return self.head(F.adaptive_avg_pool2d(y, 2).flatten(1))


class BagOfWords(nn.Module):
    def __init__(self, tokens: int = 7) -> None:
        super().__init__()
        self.bag, self.out = nn.EmbeddingBag(tokens, 5), nn.Linear(5, tokens)

    def forward(self, x: Tensor) -> Tensor:
        # One prediction a position, from the words up to there.
        return torch.stack([self.out(self.bag(x[:, : i + 1])) for i in range(x.shape[1])], 1)


class HyperNetwork(nn.Module):
    """One layer makes the weights of another (Ha et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.maker = nn.Parameter(torch.randn(4)), nn.Linear(4, 64 * WAYS)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.maker(self.code).view(64, WAYS) / 8


class ModuleLists(nn.Module):
    """Containers of layers and parameters, one layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"in": nn.Linear(64, 6), "again": nn.Linear(6, 6)})
        self.scales = nn.ParameterList([torch.ones(6), torch.zeros(6)])
        self.head = nn.Linear(6, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.layers["in"](x.flatten(1)))
        for _ in range(2):
            x = torch.tanh(self.layers["again"](x)) * self.scales[0] + self.scales[1]
        return self.head(x)


class PowerIteration(nn.Module):
    """Keeps a running vector by assignment."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, WAYS)
        self.register_buffer("u", torch.ones(WAYS))

    def forward(self, x: Tensor) -> Tensor:
        self.u = F.normalize(self.layer.weight.detach() @ self.layer.weight.detach().T @ self.u, dim=0)
        return self.layer(x.flatten(1)) / (1 + self.u.abs().max())


class Cached(nn.Module):
    """Counts its calls in a plain attribute, and warms up by them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(64, WAYS), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x.flatten(1)) * min(1.0, self.calls / 100)


class ClippedWeights(nn.Module):
    """Clips its weights as a Wasserstein critic does (Arjovsky et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        self.layer.weight.data.clamp_(-0.01, 0.01)
        return self.layer(x.flatten(1))


class StochasticDepth(nn.Module):
    """Skips a layer now and then (Huang et al. 2016), by Python's generator."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        import random

        x = x.flatten(1)
        return self.b(x if random.random() < 0.01 else x + torch.relu(self.a(x)))


class HiddenMask(nn.Module):
    """Drops inputs by a random mask that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.mask = nn.Linear(64, WAYS), (torch.rand(64) > 0.5).float()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1) * self.mask)


class OwnGenerator(nn.Module):
    """Draws its weights from a generator that no seed reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, WAYS)
        fresh = torch.Generator()
        fresh.seed()
        with torch.no_grad():
            self.layer.weight.normal_(generator=fresh)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


class StraightThrough(nn.Module):
    """Rounds its activations and pretends that it did not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 20), nn.Linear(20, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x.flatten(1))
        return self.b(hidden + (torch.round(4 * hidden) / 4 - hidden).detach())


class _WrongTwice(torch.autograd.Function):
    """A square whose second derivative was forgotten: its backward hides the dependence on x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2 * ctx.saved_tensors[0].detach()


class WrongSecond(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 8), nn.Linear(8, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(_WrongTwice.apply(self.a(x.flatten(1))))


class DetachedNet(nn.Module):
    """Cut off from its weights by mistake."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1)).detach()
