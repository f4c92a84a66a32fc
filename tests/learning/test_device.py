"""Every algorithm and model computes on the device of its state and tasks, with the same results."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from fedmeta.errors import ConfigError
from fedmeta.learning import ALGORITHMS, MODELS, Algorithm, Tensors, expand_state
from fedmeta.learning.algorithm_trial import try_on_device
from fedmeta.learning.algorithms.maml import MAML
from fedmeta.learning.device import CPU, choose_device, chunk_tasks, place, use_device
from fedmeta.tasks import TaskBatch, torch_generator
from fedmeta.tasks.batch import padded
from tests.learning.cases import CASES, FEWER, Case, make_learner, make_tasks, takes
from tests.second_device import NAME, SecondDevice, There

THERE = torch.device(NAME)


def state_of(algorithm: Algorithm, tasks: int) -> Tensors:
    drawn = algorithm.init(torch_generator(0, "init"))
    return expand_state({key: value.double() for key, value in drawn.items()}, tasks)


def require_equal(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert isinstance(value, There), f"{key} is on {value.device}"
        assert torch.equal(value.cpu(), expected[key]), key


def pairs() -> list[Any]:
    """Return each algorithm with each case that it takes.

    Quick are each algorithm with its first case, and each case with an algorithm by gradient and one by
    metric; the other pairs are slow.
    """
    found = []
    for name in ALGORITHMS:
        taken = [case for case in CASES if takes(name, CASES[case])]
        for case in taken:
            quick = name in ("maml", "protonet") or case == taken[0]
            found.append(pytest.param(name, case, marks=() if quick else pytest.mark.slow))
    return found


@pytest.mark.parametrize(("name", "case"), pairs())
def test_algorithms_and_models_stay_on_the_device_of_their_tasks(name: str, case: str) -> None:
    algorithm = make_learner(name, CASES[case], **FEWER.get(name, {}))
    tasks = make_tasks(CASES[case].spec)
    state = state_of(algorithm, len(tasks))
    updates, metrics = algorithm.task_updates(state, tasks)
    adapted = dict(algorithm.trajectory(state, tasks.support, [0, 2]))
    said = {step: algorithm.predict(state, values, tasks.query) for step, values in adapted.items()}
    with SecondDevice():
        moved, theirs = place(state, THERE), tasks.to(device=THERE)
        found, measured = algorithm.task_updates(moved, theirs)
        require_equal(found, updates)
        require_equal(measured, metrics)
        for step, values in algorithm.trajectory(moved, theirs.support, [0, 2]):
            require_equal(values, adapted[step])
            predicted = algorithm.predict(moved, values, theirs.query)
            inductive = algorithm.predict(moved, values, theirs.query, transductive=False)
            require_equal({"": predicted}, {"": said[step]})
            assert isinstance(inductive, There)


def test_every_model_has_a_case_here() -> None:
    assert {case.model for case in CASES.values()} >= set(MODELS)


def test_ragged_tasks_move_with_their_masks() -> None:
    algorithm = make_learner("reptile", CASES["sinusoid-mlp"])
    generator = torch_generator(0, "ragged")
    rows = [{k: torch.randn(n, 1, generator=generator).double() for k in ("x", "y")} for n in (2, 4)]
    whole = make_tasks(CASES["sinusoid-mlp"].spec)
    tasks = TaskBatch(padded(rows, 4), whole.query)
    updates, _ = algorithm.task_updates(state_of(algorithm, 2), tasks)
    with SecondDevice():
        found, _ = algorithm.task_updates(place(state_of(algorithm, 2), THERE), tasks.to(device=THERE))
        require_equal(found, updates)
        assert padded([{k: v.to(THERE) for k, v in row.items()} for row in rows], 4)["mask"].is_meta


class Buffered(nn.Module):
    """What it holds beside its weights is a buffer, and one layer is frozen."""

    centre: Tensor

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.register_buffer("centre", torch.full((1,), 0.5))
        self.frozen = nn.Linear(1, 4).requires_grad_(False)
        self.head = nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.frozen(x - self.centre)))


class Forgetful(Buffered):
    """It holds a tensor that PyTorch does not know of."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__(outputs)
        self.shift = torch.full((4,), 0.25)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.frozen(x - self.centre)) + self.shift)


class Careless(Buffered):
    """It makes a tensor wherever PyTorch makes tensors."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.cat([x, torch.zeros(1, 1)])[:-1])


def tried(model: type[nn.Module], algorithm: str = "maml") -> None:
    spec = CASES["sinusoid-mlp"].spec
    built = make_learner(algorithm, Case(f"{__name__}:{model.__name__}", {}, spec))
    with SecondDevice():
        try_on_device(built, make_tasks(spec).to(torch.float32), torch.float32, THERE, "it")


def test_buffers_and_frozen_layers_follow_the_weights() -> None:
    tried(Buffered)


@pytest.mark.parametrize("model", [Forgetful, Careless])
def test_a_module_that_keeps_tensors_on_the_cpu_is_refused(model: type[nn.Module]) -> None:
    with pytest.raises(ConfigError, match=r"it cannot run on meta .*two devices.*buffers"):
        tried(model)


class HomeBound(MAML):
    """It brings its updates back to the CPU."""

    @override
    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        updates, metrics = super().task_updates(state, tasks)
        return place(updates, CPU), metrics


class OtherThere(MAML):
    """It computes something else elsewhere."""

    @override
    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        updates, metrics = super().task_updates(state, tasks)
        factor = 2.0 if tasks.support_x.is_meta else 1.0
        return {key: factor * value for key, value in updates.items()}, metrics


@pytest.mark.parametrize(
    ("algorithm", "why"),
    [(HomeBound, "must be on the device of the state"), (OtherThere, "differ from the CPU's by 1 of")],
)
def test_an_algorithm_that_is_wrong_on_the_device_is_refused(
    algorithm: type[Algorithm], why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        tried(Buffered, f"{__name__}:{algorithm.__name__}")


def test_cuda_where_there_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"^device: no CUDA device found .*choose 'cpu'$"):
        use_device("cuda")
    assert choose_device("auto") == "cpu"


@pytest.mark.parametrize("name", ["gpu", "cuda:0", "meta", ""])
def test_an_unknown_device_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^device: unknown device '{name}': "):
        use_device(name)


class Unlucky(MAML):
    """There is no room for it on the device."""

    @override
    def task_updates(self, state: Tensors, tasks: TaskBatch) -> tuple[Tensors, Tensors]:
        if tasks.support_x.is_meta:
            raise RuntimeError("out of memory")
        return super().task_updates(state, tasks)


def test_another_failure_on_the_device_is_reported_unchanged() -> None:
    with pytest.raises(ConfigError, match=r"\(RuntimeError: out of memory\): or choose device = 'cpu'$"):
        tried(Buffered, f"{__name__}:Unlucky")


def test_auto_is_a_gpu_where_there_is_one_and_clients_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == "cuda"
    assert choose_device("auto", here=False) == "cpu"
    assert choose_device("cpu") == "cpu"


def test_chunks_are_larger_on_a_gpu() -> None:
    model = make_learner("maml", CASES["lstm"]).model
    assert chunk_tasks(model, CPU) == 32
    assert chunk_tasks(model, torch.device("cuda", 0)) == 512
    model.cuda_chunk_tasks = 100  # type: ignore[attr-defined]
    assert chunk_tasks(model, torch.device("cuda", 0)) == 100
