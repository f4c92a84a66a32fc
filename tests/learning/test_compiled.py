import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch

from fedmeta.errors import ConfigError
from fedmeta.learning import AlgorithmSetup, build_algorithm, expand_state
from fedmeta.tasks import TaskSpec, torch_generator
from tests.learning.cases import CASES, Case, make_learner, make_state, make_tasks

CASE = Case("mlp", {"hidden": [4]}, TaskSpec("classification", (3,), 2))
SETUP = AlgorithmSetup("maml", {"inner_steps": 1}, CASE.model, CASE.network, compile=True)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize(
    "backend",
    [
        # All but the C++, which takes minutes.
        "aot_eager",
        pytest.param("inductor", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("layout", ["shared", "contiguous"])
def test_compiled_updates_equal_eager_ones_for_every_layout_of_the_state(
    layout: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    eager, compiled = make_learner("maml", CASE, inner_steps=1), build_algorithm(SETUP, CASE.spec)
    tasks = make_tasks(CASE.spec)
    state = {
        key: value.double() for key, value in expand_state(eager.init(torch_generator(0)), 2).items()
    }
    if layout == "contiguous":
        state = {key: value.contiguous() for key, value in state.items()}
    expected, actual = eager.task_updates(state, tasks), compiled.task_updates(state, tasks)
    for one, other in zip(expected, actual, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            torch.testing.assert_close(other[key], one[key], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize(
    ("algorithm", "name"),
    [
        ("maml", "conv4-stride"),
        ("protonet", "conv4-max"),
        ("meta_sgd", "lstm"),
        ("fomaml", "user-module"),
        ("reptile", "image-mlp"),
        ("fedavg", "sinusoid-mlp"),
        ("metaoptnet", "image-mlp"),
    ],
)
def test_every_algorithm_and_model_can_be_compiled(algorithm: str, name: str) -> None:
    case = CASES[name]
    eager = make_learner(algorithm, case)
    setup = AlgorithmSetup(algorithm, {}, case.model, case.network, compile=True)
    compiled = build_algorithm(setup, case.spec)
    tasks, state = make_tasks(case.spec), make_state(eager)
    expected, actual = eager.task_updates(state, tasks), compiled.task_updates(state, tasks)
    for one, other in zip(expected, actual, strict=True):
        for key in one:
            torch.testing.assert_close(other[key], one[key], rtol=1e-8, atol=1e-11)


def test_without_a_compiler_the_option_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"no C\+\+ compiler 'no-such-compiler'"):
        build_algorithm(SETUP, CASE.spec)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_all_but_the_updates_is_the_algorithms_own() -> None:
    compiled = build_algorithm(replace(SETUP, algorithm="meta_sgd", learner={}), CASE.spec)
    assert compiled.learned_rates(compiled.init(torch_generator(0)))
    sequences = TaskSpec("sequence", (3,), 2, instances=2)
    plain = AlgorithmSetup("mann", {}, "mlp", {"hidden": []}, compile=True)
    assert build_algorithm(plain, sequences).reads_sequences
