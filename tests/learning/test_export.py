"""An exported model is a plain torch network: the lines that load it give the same outputs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fedmeta.learning import Tensors, expand_state
from fedmeta.learning.export import FILE, Network, to_plain
from fedmeta.learning.setup import build_model
from fedmeta.tasks import TaskSpec, torch_generator

IMAGE = TaskSpec("classification", (1, 28, 28), 5)


class TiedNet(nn.Module):
    """A weight with two names, a batch norm and a buffer: what a `state_dict` has beside parameters."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.first = nn.Linear(4, width)
        self.norm = nn.BatchNorm1d(width, track_running_stats=False)
        self.second = nn.Linear(width, width)
        self.third = nn.Linear(width, width)
        self.third.weight = self.second.weight
        self.register_buffer("scale", torch.tensor(3.0))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.first(x))
        return self.head(self.third(torch.tanh(self.second(hidden))) * self.scale)


NETWORKS = {
    "mlp": Network("mlp", {"hidden": [7, 6]}, TaskSpec("regression", (1,), 2), 2),
    "mlp-image": Network("mlp", {"hidden": [9], "activation": "tanh"}, IMAGE, 5),
    "mlp-embedding": Network("mlp", {"hidden": [9], "activation": "sigmoid"}, IMAGE, None),
    "conv4-stride": Network("conv4", {"width": 6}, IMAGE, 5),
    "conv4-max": Network("conv4", {"width": 6, "pooling": "max"}, IMAGE, 5),
    "conv4-max-wide": Network(
        "conv4", {"width": 3, "pooling": "max"}, TaskSpec("classification", (3, 53, 34), 4), 4
    ),
    "conv4-max-small": Network(
        "conv4", {"width": 6, "pooling": "max"}, TaskSpec("classification", (8, 8), 5), 5
    ),
    "conv4-embedding": Network("conv4", {"width": 6}, TaskSpec("classification", (28, 28), 5), None),
    "lstm": Network(
        "lstm",
        {"embedding": 3, "hidden": 5, "layers": 2},
        TaskSpec("classification", (6,), 7, vocabulary=7),
        7,
    ),
    "lstm-embedding": Network(
        "lstm", {"hidden": 5}, TaskSpec("classification", (6,), 7, vocabulary=7), None
    ),
    "lstm-features": Network(
        "lstm", {"hidden": 5, "layers": 2}, TaskSpec("classification", (6, 3), 4), 4
    ),
    "tdnn": Network("tdnn", {"hidden": [5, 4]}, TaskSpec("classification", (6, 3), 4), 4),
    "tdnn-embedding": Network(
        "tdnn", {"hidden": [5], "window": 2}, TaskSpec("classification", (6, 3), 4), None
    ),
    "module": Network(
        "tests.learning.test_export:TiedNet",
        {"width": 5},
        TaskSpec("classification", (4,), 3),
        3,
    ),
}


def drawn(network: Network, dtype: torch.dtype) -> tuple[Tensors, Tensor, Tensor]:
    """Weights of which none is 0 or 1, inputs ``[5, *input]``, and what the task-axis model says."""
    model = build_model(network.model, network.options, network.spec, network.outputs)
    noise = torch_generator(0, "noise")
    weights = {
        key: (value + 0.1 * torch.randn(value.shape, generator=noise)).to(dtype)
        for key, value in model.init(torch_generator(0, "weights")).items()
    }
    shape = (5, *network.spec.input_shape)
    if network.spec.vocabulary:
        x = torch.randint(network.spec.vocabulary, shape, generator=noise)
    else:
        x = torch.randn(shape, generator=noise).to(dtype)
    return weights, x, model.forward(expand_state(weights, 1), x.unsqueeze(0))[0]


def loaded(code: str, tensors: Tensors, folder: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Run the printed lines as they are, beside the file that they load."""
    monkeypatch.chdir(folder)
    save_file(tensors, FILE)
    names: dict[str, Any] = {}
    exec(code, names)
    return names["model"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_plain_network_gives_the_same_outputs(
    name: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = NETWORKS[name]
    weights, x, said = drawn(network, dtype)
    plain = to_plain(network, weights)
    assert plain.code is not None
    model = loaded(plain.code, plain.tensors, tmp_path, monkeypatch)
    with torch.no_grad():
        assert torch.allclose(model(x), said, atol=1e-6 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("name", [name for name in sorted(NETWORKS) if name.startswith("conv4")])
def test_statistics_of_what_was_seen_make_the_plain_network_a_fixed_function(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = NETWORKS[name]
    weights, x, _ = drawn(network, torch.float64)
    model = build_model(network.model, network.options, network.spec, network.outputs)
    by_first = model.forward(expand_state(weights, 1), x.unsqueeze(0), stat_rows=3)[0]
    plain = to_plain(network, weights, seen=x[:3])
    assert plain.code is not None
    fixed = loaded(plain.code, plain.tensors, tmp_path, monkeypatch)
    with torch.no_grad():
        assert torch.allclose(fixed(x), by_first, atol=1e-12)
        assert torch.allclose(fixed(x[4:]), by_first[4:], atol=1e-12)


def test_the_lines_are_few() -> None:
    for network in NETWORKS.values():
        code = to_plain(network, drawn(network, torch.float32)[0]).code
        assert code is not None
        assert len(code.splitlines()) <= 16


def test_a_model_for_the_task_axis_alone_keeps_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "docs")
    network = Network("examples.siren:TaskSiren", {}, TaskSpec("regression", (1,), 1), 1)
    weights, _, _ = drawn(network, torch.float32)
    plain = to_plain(network, weights)
    assert plain.code is None
    assert all(torch.equal(plain.tensors[key], value) for key, value in weights.items())
