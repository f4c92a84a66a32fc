"""Networks as people publish them, through the gradient-based and metric-based algorithms.

The reference is a plain loop over tasks in float64: a module loaded by `load_state_dict`, inner steps by
`torch.autograd.grad`, attention by the path that can be differentiated twice.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedmeta.errors import ConfigError
from fedmeta.learning import Algorithm, AlgorithmSetup, Tensors, build_algorithm, expand_state
from fedmeta.learning.algorithm_trial import try_updates
from fedmeta.learning.export import Network, to_plain
from fedmeta.learning.model_trial import try_model
from fedmeta.tasks import TaskBatch, TaskSpec, torch_generator
from tests.learning import networks
from tests.learning.cases import make_tasks, relative_error

IMAGES = TaskSpec("classification", (1, 8, 8), networks.WAYS)
TOKENS = TaskSpec("classification", (6,), 7, vocabulary=7)

ACCEPTED: dict[str, tuple[str, Mapping[str, Any], TaskSpec]] = {
    "plain CNN": ("PlainConv", {}, IMAGES),
    "ResNet-12": ("ResNet12", {}, IMAGES),
    "batch norm with running statistics": ("ResNet12", {"running": True}, IMAGES),
    "batch norm, other eps, no scale": ("OddEps", {}, IMAGES),
    "GroupNorm": ("GroupNormNet", {}, IMAGES),
    "LayerNorm": ("LayerNormNet", {}, IMAGES),
    "InstanceNorm": ("InstanceNormNet", {}, IMAGES),
    "weight normalisation": ("WeightNormNet", {}, IMAGES),
    "tied language model": ("TiedLanguageModel", {}, TOKENS),
    "bidirectional LSTM": ("StackedLSTM", {}, TOKENS),
    "causal transformer": ("CausalTransformer", {}, TOKENS),
    "vision transformer": ("VisionTransformer", {}, IMAGES),
    "fused attention": ("FusedAttention", {}, IMAGES),
    "frozen backbone with a head": ("FrozenBackbone", {}, IMAGES),
    "low-rank adapters": ("LowRank", {}, IMAGES),
    "random features": ("RandomFeatures", {}, IMAGES),
    "lazy": ("LazyNet", {}, IMAGES),
    "input changed in place": ("InPlaceInput", {}, IMAGES),
    "a part of a tuple": ("MultiTask", {"alone": True}, IMAGES),
    "mixed precision": ("Autocast", {}, IMAGES),
    "squeeze and excitation": ("SqueezeExcite", {}, IMAGES),
    "transposed convolution": ("UpDown", {}, IMAGES),
    "hypernetwork": ("HyperNetwork", {}, IMAGES),
    "containers and shared layers": ("ModuleLists", {}, IMAGES),
}
REFUSED: dict[str, tuple[str, Mapping[str, Any], TaskSpec, str]] = {
    "dropout by module": ("PlainConv", {"dropout": 0.2}, IMAGES, "random numbers in 'drop'"),
    "dropout by function": ("FunctionalDropout", {}, IMAGES, "draws random numbers"),
    "dropout of an LSTM": ("StackedLSTM", {"dropout": 0.1}, TOKENS, "random numbers in 'rnn'"),
    "dropout of attention": (
        "VisionTransformer",
        {"dropout": 0.1},
        IMAGES,
        r"random numbers in 'layers",
    ),
    "dropout of fused attention": ("FusedAttention", {"p": 0.1}, IMAGES, "draws random numbers"),
    "stochastic depth": ("StochasticDepth", {}, IMAGES, "draws random numbers"),
    "spectral normalisation": ("SpectralNet", {}, IMAGES, r"writes to its buffer 'a\..*_u'"),
    "instance norm with running statistics": (
        "InstanceNormNet",
        {"running": True},
        IMAGES,
        "writes to its buffer 'net.1.running_mean'",
    ),
    "a buffer by assignment": ("PowerIteration", {}, IMAGES, "writes to its buffer 'u'"),
    "weights clipped in forward": (
        "ClippedWeights",
        {},
        IMAGES,
        "writes to its parameter 'layer.weight'",
    ),
    "calls counted": ("Cached", {}, IMAGES, "different outputs for the same inputs"),
    "a random mask that is no buffer": ("HiddenMask", {}, IMAGES, "not in its state_dict"),
    "a generator of its own": ("OwnGenerator", {}, IMAGES, "ignores the run's seed"),
    "a tuple": ("MultiTask", {}, IMAGES, "returns a tuple"),
    "half precision": ("HalfWeights", {}, IMAGES, "'net.weight' in float16"),
    "bfloat16": ("HalfWeights", {"kind": "bfloat16"}, IMAGES, "'net.weight' in bfloat16"),
    "straight-through rounding": ("StraightThrough", {}, IMAGES, "gradient that differs"),
    "a wrong second derivative": ("WrongSecond", {}, IMAGES, "second derivative that differs"),
    "no second derivative": ("BagOfWords", {}, TOKENS, "no second derivative.*fomaml"),
    "cut off from its weights": ("DetachedNet", {}, IMAGES, "no gradient"),
}
ALGORITHMS = {
    "maml": {"inner_lr": 0.1, "inner_steps": 2},
    "fomaml": {"inner_lr": 0.1, "inner_steps": 2},
    "reptile": {"inner_lr": 0.1, "inner_steps": 2},
    "protonet": {},
}


def _build(
    name: str, network: Mapping[str, Any], spec: TaskSpec, algorithm: str, seed: int = 5
) -> Algorithm:
    setup = AlgorithmSetup(algorithm, ALGORITHMS[algorithm], f"tests.learning.networks:{name}", network)
    return build_algorithm(setup, spec, seed)


def _try(algorithm: Algorithm, spec: TaskSpec) -> None:
    tasks = make_tasks(spec, tasks=2).to(torch.float32)
    try_model(algorithm.model, tasks.support_x, torch.float32, algorithm.second_order, "model 'it'")
    try_updates(algorithm, tasks, torch.float32, "it")


class _Loop:
    """A plain loop over tasks with a user's module, in float64."""

    def __init__(self, module: nn.Module, algorithm: Algorithm) -> None:
        self.module = module.double()
        self.options = algorithm.options

    def run(self, weights: Tensors, x: Tensor) -> Tensor:
        # PyTorch's own weight normalisation has a wrong second derivative.
        plain = mock.patch("torch._weight_norm", lambda v, g, _: g * v / v.norm(dim=1, keepdim=True))
        with sdpa_kernel(SDPBackend.MATH), plain:
            return functional_call(self.module, weights, (x.clone(),))

    def loss(self, weights: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.run(weights, x).flatten(0, -2), y.flatten())

    def adapted(self, weights: Tensors, x: Tensor, y: Tensor, graph: bool) -> Tensors:
        for _ in range(self.options.inner_steps):
            grads = torch.autograd.grad(
                self.loss(weights, x, y), list(weights.values()), create_graph=graph
            )
            stepped = zip(weights.items(), grads, strict=True)
            weights = {key: value - self.options.inner_lr * grad for (key, value), grad in stepped}
            if not graph:
                weights = {key: value.detach().requires_grad_() for key, value in weights.items()}
        return weights

    def maml(self, at: Tensors, task: tuple[Tensor, ...], graph: bool = True) -> Tensors:
        sx, sy, qx, qy = task
        adapted = self.adapted(at, sx, sy, graph)
        by = at if graph else adapted
        return _named(at, torch.autograd.grad(self.loss(adapted, qx, qy), list(by.values())))

    def fomaml(self, at: Tensors, task: tuple[Tensor, ...]) -> Tensors:
        return self.maml(at, task, graph=False)

    def reptile(self, at: Tensors, task: tuple[Tensor, ...]) -> Tensors:
        sx, sy, qx, qy = task
        adapted = self.adapted(at, torch.cat([sx, qx]), torch.cat([sy, qy]), graph=False)
        return {key: at[key].detach() - adapted[key].detach() for key in at}

    def protonet(self, at: Tensors, task: tuple[Tensor, ...]) -> Tensors:
        sx, sy, qx, qy = task
        embedded, query = self.run(at, sx), self.run(at, qx)
        means = torch.stack([embedded[sy == way].mean(0) for way in range(networks.WAYS)])
        logits = -((query[:, None] - means[None]) ** 2).sum(-1)
        return _named(at, torch.autograd.grad(F.cross_entropy(logits, qy), list(at.values())))


def _named(at: Tensors, grads: tuple[Tensor, ...]) -> Tensors:
    return dict(zip(at, grads, strict=True))


def _expected(algorithm: Algorithm, name: str, case: str, state: Tensors, tasks: TaskBatch) -> Tensors:
    kind, network, _ = ACCEPTED[case]
    loaded = to_plain(_network(algorithm, case), state).tensors
    module = getattr(networks, kind)(**network)
    # Running statistics are not among them, and play no part in training mode.
    module.load_state_dict(loaded, strict=False)
    loop = _Loop(module, algorithm)
    step: Callable[[Tensors, tuple[Tensor, ...]], Tensors] = getattr(loop, name)
    rows = []
    for task in range(len(tasks)):
        at = {key: value.detach().clone().requires_grad_() for key, value in state.items()}
        parts = (tasks.support_x, tasks.support_y, tasks.query_x, tasks.query_y)
        rows.append(step(at, tuple(part[task] for part in parts)))
    return {key: torch.stack([row[key] for row in rows]) for key in state}


def _network(algorithm: Algorithm, case: str) -> Network:
    kind, network, spec = ACCEPTED[case]
    return Network(f"tests.learning.networks:{kind}", network, spec, None, algorithm.model)


FIRST_ORDER = ("batch norm with running statistics", "causal transformer", "low-rank adapters")
"""For every day; what is asked of a network by first-order algorithms, MAML asks too."""


def _combinations() -> Iterator[object]:
    for case in ACCEPTED:
        for name in ALGORITHMS:
            often = name in ("maml", "protonet") or case in FIRST_ORDER
            yield pytest.param(case, name, marks=() if often else pytest.mark.slow)


@pytest.mark.parametrize(("case", "name"), list(_combinations()))
def test_a_public_network_learns_as_in_a_plain_loop(case: str, name: str) -> None:
    kind, network, spec = ACCEPTED[case]
    if name == "protonet" and spec.vocabulary:
        pytest.skip("prototypes need one label an example")
    algorithm = _build(kind, network, spec, name)
    _try(algorithm, spec)
    tasks = make_tasks(spec)
    state = {key: value.double() for key, value in algorithm.init(torch_generator(5, "init")).items()}
    updates, _ = algorithm.task_updates(expand_state(state, len(tasks)), tasks)
    assert relative_error(updates, _expected(algorithm, name, case, state, tasks)) < 1e-9


@pytest.mark.parametrize("case", REFUSED)
def test_a_network_that_would_go_wrong_is_refused_by_name_in_one_line(case: str) -> None:
    kind, network, spec, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message) as refusal:
        _try(_build(kind, network, spec, "maml"), spec)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("case", ["no second derivative", "a wrong second derivative"])
def test_a_second_derivative_is_only_asked_of_algorithms_that_use_it(case: str) -> None:
    kind, network, spec, _ = REFUSED[case]
    _try(_build(kind, network, spec, "fomaml"), spec)


@pytest.mark.parametrize("case", ACCEPTED)
def test_an_exported_network_predicts_what_the_run_did(case: str) -> None:
    kind, network, spec = ACCEPTED[case]
    algorithm = _build(kind, network, spec, "maml")
    state = algorithm.init(torch_generator(5, "init"))
    plain = to_plain(_network(algorithm, case), state)
    assert plain.code is not None
    lines = [
        line
        for line in plain.code.splitlines()
        if not line.startswith(("model.load_state_dict", "print"))
    ]
    scope: dict[str, Any] = {}
    exec("\n".join(lines), scope)
    model = scope["model"]
    model.load_state_dict(plain.tensors)
    x = make_tasks(spec).to(torch.float32).query_x
    expected = algorithm.model.forward(expand_state(state, len(x)), x)
    for mode in (True, False):
        # A network whose parts are all alike in both modes must not depend on it.
        if not mode and case != "mixed precision":
            model.eval()
        for task in range(len(x)):
            torch.testing.assert_close(model(x[task].clone()), expected[task], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", ["frozen backbone with a head", "random features", "low-rank adapters"])
def test_constants_come_from_the_seed_and_are_never_learned(case: str) -> None:
    kind, network, spec = ACCEPTED[case]
    one, same, other = (_build(kind, network, spec, "maml", seed) for seed in (3, 3, 4))
    constants = one.model.constants
    assert constants
    assert not constants.keys() & one.init(torch_generator(3, "init")).keys()
    assert all(torch.equal(value, same.model.constants[key]) for key, value in constants.items())
    drawn = [key for key, value in constants.items() if value.is_floating_point() and value.numel() > 1]
    assert all(not torch.equal(constants[key], other.model.constants[key]) for key in drawn[:1])


def test_constants_and_weights_come_from_one_and_the_same_construction() -> None:
    algorithm = _build("FrozenBackbone", {}, IMAGES, "maml", seed=3)
    weights = algorithm.init(torch_generator(3, "init"))
    seed = int(torch.randint(2**62, (), generator=torch_generator(3, "init")))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = networks.FrozenBackbone()
    torch.testing.assert_close(weights["head.weight"], module.head.weight, rtol=0, atol=0)
    torch.testing.assert_close(
        algorithm.model.constants["trunk.0.weight"], module.trunk[0].weight, rtol=0, atol=0
    )
