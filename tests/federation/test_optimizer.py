"""The server's step is torch.optim's, at the scheduled rate, and survives a checkpoint bit for bit."""

import inspect
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from fedmeta.errors import ConfigError
from fedmeta.experiment import run
from fedmeta.federation import ServerOptimizer, ServerOptions
from fedmeta.federation.optimizer import learning_rate, require_fits
from fedmeta.federation.round_plan import optimizer_arguments
from fedmeta.learning import Tensors
from fedmeta.options import parse_options
from tests.federation.helpers import assert_same

EVERY = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and name != "Optimizer"
)
ROUNDS = 10
OPTIMIZERS = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("Adam", {}),
    ("Adam", {"amsgrad": True, "betas": [0.5, 0.9]}),
    ("AdamW", {"weight_decay": 0.1}),
    ("Adamax", {}),
    ("NAdam", {}),
    ("RAdam", {}),
    ("RMSprop", {"momentum": 0.5, "centered": True}),
    ("Rprop", {}),
    ("ASGD", {}),
    ("Adagrad", {}),
    ("Adadelta", {}),
    ("Adafactor", {}),
]


def state() -> Tensors:
    generator = torch.Generator().manual_seed(0)
    return {"w": torch.randn(3, 4, generator=generator), "b": torch.randn(3, generator=generator)}


def gradients(round_: int) -> Tensors:
    generator = torch.Generator().manual_seed(round_)
    return {"w": torch.randn(3, 4, generator=generator), "b": torch.randn(3, generator=generator)}


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_steps_like_torch_optim_run_directly(name: str, options: dict[str, object]) -> None:
    server = ServerOptimizer(ServerOptions(optimizer=name, lr=0.05, options=options), state(), ROUNDS)
    weights = {key: value.clone().requires_grad_() for key, value in state().items()}
    reference = getattr(torch.optim, name)(weights.values(), lr=0.05, **options)
    for round_ in range(1, 6):
        server.step(round_, gradients(round_))
        for key, value in gradients(round_).items():
            weights[key].grad = value
        reference.step()
    assert_same(server.state, {key: weights[key].detach() for key in sorted(weights)})


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_a_restored_optimizer_continues_bit_for_bit(name: str, options: dict[str, object]) -> None:
    how = ServerOptions(optimizer=name, lr=0.05, options=options, schedule="cosine", clip_norm=1.0)
    undisturbed = ServerOptimizer(how, state(), ROUNDS)
    for round_ in range(1, 8):
        undisturbed.step(round_, gradients(round_))
        if round_ == 4:
            # Through safetensors, as a checkpoint goes.
            kept, flat = load(save(undisturbed.state)), load(save(undisturbed.export()))
    resumed = ServerOptimizer(how, kept, ROUNDS)
    resumed.restore(flat)
    for round_ in range(5, 8):
        resumed.step(round_, gradients(round_))
    assert_same(resumed.state, {key: undisturbed.state[key] for key in resumed.state})
    assert_same(resumed.export(), {key: undisturbed.export()[key] for key in resumed.export()})


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.75, 0.5, 0.25]),
        ("cosine", [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
    ],
)
def test_schedules_are_functions_of_the_round(schedule: str, expected: list[float]) -> None:
    options = ServerOptions(lr=1.0, schedule=schedule)
    assert [learning_rate(options, round_, 4) for round_ in range(1, 5)] == pytest.approx(expected)


def test_a_long_pseudo_gradient_is_scaled_down_to_clip_norm() -> None:
    options = ServerOptions(optimizer="SGD", lr=1.0, clip_norm=1.0)
    server = ServerOptimizer(options, {"x": torch.zeros(2)}, 1)
    server.step(1, {"x": torch.tensor([3.0, 4.0])})
    torch.testing.assert_close(server.state["x"], torch.tensor([-0.6, -0.8]))


def test_a_short_pseudo_gradient_is_left_alone() -> None:
    options = ServerOptions(optimizer="SGD", lr=1.0, clip_norm=6.0)
    server = ServerOptimizer(options, {"x": torch.zeros(2)}, 1)
    server.step(1, {"x": torch.tensor([3.0, 4.0])})
    assert server.state["x"].tolist() == [-3.0, -4.0]


def test_the_order_of_a_state_changes_no_bit() -> None:
    generator = torch.Generator().manual_seed(1)
    start = {name: torch.randn(5, generator=generator) for name in "cabfde"}
    options = ServerOptions(optimizer="SGD", clip_norm=0.5)
    for round_ in range(1, 40):
        gradient = {name: torch.randn(5, generator=generator) for name in start}
        one, other = (
            ServerOptimizer(options, dict(order), 40) for order in (start.items(), sorted(start.items()))
        )
        one.step(round_, gradient)
        other.step(round_, gradient)
        assert list(one.state) == list(other.state)
        assert_same(one.state, other.state)


def test_whole_numbers_in_a_state_are_carried_but_not_stepped() -> None:
    start = {"x": torch.zeros(1), "count": torch.tensor([5])}
    server = ServerOptimizer(ServerOptions(optimizer="SGD", lr=1.0), start, 1)
    server.step(1, {"x": torch.ones(1), "count": torch.tensor([9])})
    assert {key: value.tolist() for key, value in server.state.items()} == {"x": [-1.0], "count": [5]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "Adm"}, "unknown torch.optim optimizer 'Adm': did you mean 'Adam'"),
        (
            {"optimizer": "Adam", "options": {"beta": 1}},
            "no option 'beta' in torch.optim.Adam: did you mean 'betas'",
        ),
        ({"optimizer": "Adam", "options": {"betas": [2.0, 0.9]}}, "Invalid beta parameter"),
        ({"optimizer": "SGD", "options": {"nesterov": True}}, "Nesterov momentum requires"),
        ({"optimizer": "LBFGS"}, "LBFGS cannot be the server's optimizer.*closure"),
        ({"optimizer": "SparseAdam"}, "SparseAdam cannot be the server's optimizer"),
        ({"lr": -1.0}, "server.lr: must be greater than 0"),
        ({"clip_norm": 0.0}, "server.clip_norm"),
        ({"clip": 1.0}, "unknown key 'server.clip': did you mean 'server.clip_norm'"),
        ({"schedule": "linar"}, "server.schedule"),
    ],
)
def test_bad_options_are_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        require_fits(parse_options(ServerOptions, values, "server"), {"w": torch.zeros(2, 2)})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", EVERY)
def test_the_arguments_that_are_read_from_its_source_are_an_optimizers(name: str) -> None:
    arguments = set(inspect.signature(getattr(torch.optim, name)).parameters)
    assert set(optimizer_arguments(name)) == arguments - {"params", "lr"}


def test_an_optimizer_state_of_another_model_is_refused() -> None:
    server = ServerOptimizer(ServerOptions(), state(), ROUNDS)
    with pytest.raises(ConfigError, match="no 'other' to optimize"):
        server.restore({"other/step": torch.tensor(1.0)})


@pytest.mark.parametrize(
    ("name", "options"), [("SGD", {}), ("SGD", {"momentum": 0.9}), ("Adam", {}), ("Adagrad", {})]
)
def test_a_preview_is_the_next_step_and_leaves_no_trace(name: str, options: dict[str, object]) -> None:
    state = {"w": torch.randn(3, 2, generator=torch.Generator().manual_seed(1))}
    gradients = [
        {"w": torch.randn(3, 2, generator=torch.Generator().manual_seed(seed))} for seed in (2, 3, 4)
    ]
    plain, previewed = (
        ServerOptimizer(ServerOptions(optimizer=name, lr=0.1, options=options), state, 3)
        for _ in range(2)
    )
    for round_, gradient in enumerate(gradients, 1):
        foreseen = previewed.preview(round_, gradient)
        previewed.preview(round_, {"w": 100 * gradient["w"]})
        assert previewed.state["w"].equal(plain.state["w"])
        plain.step(round_, gradient)
        previewed.step(round_, gradient)
        assert foreseen["w"].equal(plain.state["w"])
        assert previewed.state["w"].equal(plain.state["w"])


SHAPES = {"matrix": (3, 2), "bias": (3,), "rate": (), "filters": (2, 1, 3, 3)}


@pytest.mark.parametrize("name", EVERY)
def test_every_optimizer_of_torch_works_or_is_refused_in_one_line(name: str) -> None:
    """On tensors of all ranks that models have; what works goes on from a checkpoint bit for bit."""
    start = {key: torch.ones(shape) for key, shape in SHAPES.items()}
    gradients = {key: torch.full(shape, 0.5) for key, shape in SHAPES.items()}
    if name in ("LBFGS", "Muon", "SparseAdam"):
        with pytest.raises(ConfigError, match=rf"^server: torch\.optim\.{name} cannot be") as caught:
            require_fits(parse_options(ServerOptions, {"optimizer": name}, "server"), start)
        assert "\n" not in str(caught.value)
        return
    options = parse_options(ServerOptions, {"optimizer": name}, "server")
    require_fits(options, start)
    one = ServerOptimizer(options, start, 4)
    one.step(1, gradients)
    other = ServerOptimizer(options, load(save(one.state)), 4)
    other.restore(load(save(one.export())))
    for server in (one, other):
        server.step(2, gradients)
    assert_same(one.state, other.state)
    assert all(not one.state[key].equal(start[key]) for key in start)


@pytest.mark.parametrize(
    ("shapes", "fits"),
    [({"w": (4, 3)}, True), ({"w": (4, 3), "b": (4,)}, False), ({"k": (2, 1, 3, 3)}, False)],
)
def test_muon_takes_matrices_and_says_what_it_does_not_take(
    shapes: dict[str, tuple[int, ...]], fits: bool
) -> None:
    options = ServerOptions(optimizer="Muon", lr=0.1)
    state = {key: torch.ones(shape) for key, shape in shapes.items()}
    if fits:
        server = ServerOptimizer(options, state, 1)
        server.step(1, {key: torch.ones(shape) for key, shape in shapes.items()})
        assert not server.state["w"].equal(state["w"])
        return
    with pytest.raises(ConfigError, match=r"server: torch\.optim\.Muon cannot be .*2D parameters"):
        ServerOptimizer(options, state, 1)


def test_an_optimizer_that_does_not_fit_the_model_is_refused_before_there_is_a_folder(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match="Muon cannot be the server's optimizer"):
        run("quickstart", {"server.optimizer": "Muon"}, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
