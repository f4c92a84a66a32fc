"""What every built-in model promises; each one's own claims are in its own file."""

import pytest
import torch

from fedmeta.errors import ConfigError
from fedmeta.learning import build_model, expand_state
from fedmeta.tasks import TaskSpec, torch_generator
from tests.learning.cases import CASES, make_learner, make_state, make_tasks
from tests.learning.reference import to_module


@pytest.mark.parametrize("name", CASES)
def test_forward_equals_a_plain_module_task_by_task(name: str) -> None:
    learner = make_learner("maml", CASES[name])
    tasks, state = make_tasks(CASES[name].spec, tasks=3), make_state(learner, tasks=3)
    outputs = learner.model.forward(state, tasks.query_x)
    for task in range(3):
        module = to_module(name, {key: value[task] for key, value in state.items()})
        torch.testing.assert_close(outputs[task], module(tasks.query_x[task]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_initial_weights_depend_on_the_generator_alone(name: str) -> None:
    model = make_learner("maml", CASES[name]).model
    torch.manual_seed(1)
    first = model.init(torch_generator(7, "init"))
    torch.manual_seed(2)
    again, other = model.init(torch_generator(7, "init")), model.init(torch_generator(8, "init"))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_building_a_model_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    make_learner("maml", CASES["user-module"]).model.init(torch_generator(0))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("model", "shape", "features"),
    [
        ("mlp", (8, 8), 40),
        ("conv4", (28, 28), 64),
        ("conv4", (3, 84, 84), 64),
        ("resnet12", (28, 28), 512),
        ("lstm", (9, 12), 64),
        ("tdnn", (9, 12), 32),
    ],
)
def test_without_outputs_a_model_is_an_embedding(
    model: str, shape: tuple[int, ...], features: int
) -> None:
    network = build_model(model, {}, TaskSpec("classification", shape, 5), outputs=None)
    params = expand_state(network.init(torch_generator(0)), 2)
    assert network.outputs == features
    assert network.forward(params, torch.zeros(2, 3, *shape)).shape == (2, 3, features)


@pytest.mark.parametrize("shape", [(8, 8), (1, 28, 28), (3, 33, 20)])
@pytest.mark.parametrize("pooling", ["stride", "max"])
def test_conv4_takes_images_of_any_size(pooling: str, shape: tuple[int, ...]) -> None:
    network = build_model(
        "conv4", {"width": 4, "pooling": pooling}, TaskSpec("classification", shape, 5), 5
    )
    params = expand_state(network.init(torch_generator(0)), 2)
    assert network.forward(params, torch.zeros(2, 3, *shape)).shape == (2, 3, 5)


@pytest.mark.parametrize(
    ("model", "spec", "message"),
    [
        ("mlp", CASES["lstm"].spec, "choose 'lstm'"),
        ("lstm", CASES["image-mlp"].spec, "choose 'mlp'"),
        ("resnet12", CASES["lstm"].spec, "choose 'lstm'$"),
        ("conv4", CASES["sinusoid-mlp"].spec, r"needs images .* the shape \[1\]; choose 'mlp'$"),
        ("tdnn", CASES["lstm"].spec, "inputs are tokens; choose 'lstm'"),
        ("tdnn", CASES["image-mlp"].spec, "needs sequences .* are others; choose 'mlp'"),
        (
            "tdnn",
            TaskSpec("classification", (4, 9), 3),
            "network.window = 3 in 2 layers needs 5 frames, but the task's inputs have 4",
        ),
    ],
)
def test_a_model_that_cannot_read_the_inputs_is_refused(
    model: str, spec: TaskSpec, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(model, {}, spec, spec.outputs)
