import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typing_extensions import override

from fedmeta.errors import ConfigError
from fedmeta.learning import Algorithm, Tensors
from fedmeta.learning.algorithms.maml import MAML
from fedmeta.learning.algorithms.meta_sgd import MetaSGD
from fedmeta.learning.native import build, kernel
from fedmeta.learning.native.kernel import Kernel, choose_kernels, loss_of
from fedmeta.tasks import Examples, TaskBatch, TaskSpec, torch_generator
from fedmeta.tasks.objective import Objective, leaves
from fedmeta.tasks.objectives.classification import Classification
from fedmeta.tasks.objectives.ratings import Ratings
from fedmeta.tasks.objectives.screening import Screening
from tests.kernels import needs_kernels
from tests.learning import cases
from tests.learning.cases import Case, make_learner, make_state, make_tasks, relative_error

pytestmark = needs_kernels
TEXT = TaskSpec("classification", (9,), 11, vocabulary=11)


def images(*shape: int) -> TaskSpec:
    return TaskSpec("classification", shape, 5)


# Widths below, at and above whole vectors; images that lose a line in pooling, or are not pooled.
SHAPES = {
    "one layer": Case("mlp", {"hidden": []}, images(9)),
    "deep, sigmoid": Case("mlp", {"hidden": [3, 8, 17], "activation": "sigmoid"}, images(2, 3)),
    "two targets": Case("mlp", {"hidden": [40, 40]}, TaskSpec("regression", (3,), 2)),
    "tanh": Case("mlp", {"hidden": [13], "activation": "tanh"}, TaskSpec("regression", (1,), 1)),
    "odd image": Case("conv4", {"width": 10, "pooling": "max"}, images(3, 21, 17)),
    "odd image, strided": Case("conv4", {"width": 10}, images(3, 21, 17)),
    "small image": Case("conv4", {"width": 8, "pooling": "max"}, images(4, 5)),
    "omniglot": Case("conv4", {"width": 16, "pooling": "max"}, images(28, 28)),
    "one LSTM layer": Case("lstm", {"embedding": 8, "hidden": 16}, TEXT),
    "three LSTM layers": Case("lstm", {"embedding": 5, "hidden": 10, "layers": 3}, TEXT),
}


def both(monkeypatch: pytest.MonkeyPatch, algorithm: str, case: Case, **options: Any) -> list[Algorithm]:
    """Build an algorithm with autograd and with native kernels."""
    made = []
    for kernels in ("eager", "native"):
        monkeypatch.setattr(cases, "KERNELS", kernels)
        made.append(make_learner(algorithm, case, **options))
    return made


def random_direction(state: Tensors) -> Tensors:
    """Return a direction of length 1, along which a small step crosses no kink of ReLU or maximum."""
    generator = torch_generator(3, "direction")
    drawn = {k: torch.randn(v.shape, generator=generator).double() for k, v in state.items()}
    length = sum(float(value.square().sum()) for value in drawn.values()) ** 0.5
    return {key: value / length for key, value in drawn.items()}


def assert_close(actual: Tensors, expected: Tensors, limit: float = 1e-12) -> None:
    assert relative_error(actual, expected) < limit


@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("algorithm", ["maml", "fomaml", "meta_sgd"])
@pytest.mark.parametrize("name", SHAPES)
def test_updates_and_metrics_are_those_of_autograd(
    name: str, algorithm: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = SHAPES[name]
    eager, native = both(monkeypatch, algorithm, case, inner_lr=0.01, inner_steps=steps)
    tasks, state = make_tasks(case.spec, tasks=3, support=5, query=7), make_state(eager, tasks=3)
    expected, expected_metrics = eager.task_updates(state, tasks)
    updates, metrics = native.task_updates(state, tasks)
    assert_close(updates, expected)
    assert_close(metrics, expected_metrics)
    assert list(updates) == list(expected)


@pytest.mark.parametrize("queries", [1, 15])
@pytest.mark.parametrize("name", ["odd image", "odd image, strided", "omniglot"])
def test_the_query_set_may_use_the_support_sets_statistics(
    name: str, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = SHAPES[name]
    eager, native = both(monkeypatch, "maml", case, transductive=False, inner_lr=0.02, inner_steps=2)
    tasks, state = make_tasks(case.spec, support=5, query=5 * queries), make_state(eager)
    assert_close(native.task_updates(state, tasks)[0], eager.task_updates(state, tasks)[0])
    for transductive in (True, False):
        adapted = eager.adapt(state, tasks.support, 2)
        expected = eager.predict(state, adapted, tasks.query, transductive)
        own = native.adapt(state, tasks.support, 2)
        torch.testing.assert_close(
            native.predict(state, own, tasks.query, transductive), expected, rtol=1e-10, atol=1e-11
        )


@pytest.mark.parametrize("transductive", [True, False])
@pytest.mark.parametrize("name", ["deep, sigmoid", "odd image", "odd image, strided", "omniglot"])
def test_prototypes_have_the_gradient_of_autograd(
    name: str, transductive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = SHAPES[name]
    eager, native = both(monkeypatch, "protonet", case, transductive=transductive)
    tasks, state = make_tasks(case.spec, support=10, query=15), make_state(eager)
    expected, _ = eager.task_updates(state, tasks)
    updates, _ = native.task_updates(state, tasks)
    assert_close(updates, expected)


@pytest.mark.parametrize("name", SHAPES)
def test_hessian_vector_products_are_differences_of_gradients(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = SHAPES[name]
    eager, native = both(monkeypatch, "maml", case)
    tasks, state = make_tasks(case.spec), make_state(eager)
    along = random_direction(state)
    found = native.objective.hvp(native.model, state, tasks.support, along)

    def slope(by: float) -> Tensors:
        at = {key: value + by * along[key] for key, value in state.items()}
        return eager.objective.gradient(eager.model, leaves(at), tasks.support).values

    ahead, behind, width = slope(1e-6), slope(-1e-6), 2e-6
    expected = {key: (ahead[key] - behind[key]) / width for key in ahead}
    assert_close(found, expected, 1e-6)
    assert_close(found, eager.objective.hvp(eager.model, state, tasks.support, along))


@pytest.mark.parametrize("examples", [700, 1600])
@pytest.mark.parametrize("pooling", ["stride", "max"])
def test_lines_of_many_images_are_computed_in_strips(
    pooling: str, examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A strip is 1,536 rows of z here: part of a line of 700 images, or one pixel of 1,600."""
    case = Case("conv4", {"width": 8, "pooling": pooling}, images(8, 12))
    eager, native = both(monkeypatch, "maml", case)
    tasks, state = make_tasks(case.spec, tasks=1, support=examples), make_state(eager, tasks=1)
    along = random_direction(state)
    expected = eager.objective.gradient(eager.model, leaves(state), tasks.support).values
    assert_close(native.objective.gradient(native.model, state, tasks.support).values, expected)
    product = eager.objective.hvp(eager.model, state, tasks.support, along)
    assert_close(native.objective.hvp(native.model, state, tasks.support, along), product)


@pytest.mark.parametrize("name", SHAPES)
def test_float32_is_as_near_to_float64_as_autograd_is(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = SHAPES[name]
    eager, native = both(monkeypatch, "maml", case, inner_lr=0.02, inner_steps=3)
    tasks, state = make_tasks(case.spec, tasks=8), make_state(eager, tasks=8)
    expected, _ = eager.task_updates(state, tasks)
    single = {key: value.float() for key, value in state.items()}
    exact = {key: value.double() for key, value in single.items()}
    expected, _ = eager.task_updates(exact, tasks.to(torch.float32).to(torch.float64))
    errors = []
    for algorithm in (eager, native):
        updates, _ = algorithm.task_updates(single, tasks.to(torch.float32))
        errors.append(relative_error({k: v.double() for k, v in updates.items()}, expected))
    # Both are single rounding errors added up: on so few tasks either may be the luckier by a factor.
    assert errors[1] < max(3 * errors[0], 1e-6)


@pytest.mark.parametrize(
    "algorithm",
    ["maml", "fomaml", "meta_sgd", "maml_pp", "imaml", "anil", "boil", "reptile", "protonet"],
)
@pytest.mark.parametrize("name", ["two targets", "odd image", "three LSTM layers"])
def test_bits_do_not_depend_on_threads_or_on_the_other_tasks(
    name: str, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = SHAPES[name]
    if algorithm == "protonet" and name != "odd image":
        pytest.skip("prototypes need one label per example")
    monkeypatch.setattr(cases, "KERNELS", "native")
    native = make_learner(algorithm, case)
    tasks = make_tasks(case.spec, tasks=7).to(torch.float32)
    state = {key: value.float() for key, value in make_state(native, tasks=7).items()}
    expected, _ = native.task_updates(state, tasks)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            updates, _ = native.task_updates(state, tasks)
            assert all(torch.equal(updates[key], expected[key]) for key in expected)
    finally:
        torch.set_num_threads(before)
    for task in (0, 6):
        own = {key: value[task : task + 1] for key, value in state.items()}
        updates, _ = native.task_updates(own, tasks[task : task + 1])
        assert all(torch.equal(updates[key][0], expected[key][task]) for key in expected)


def test_shared_and_own_states_have_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "KERNELS", "native")
    native = make_learner("meta_sgd", SHAPES["two targets"])
    tasks, one = make_tasks(native.spec, tasks=3), make_state(native, tasks=1)
    shared = {key: value.expand(3, *value.shape[1:]) for key, value in one.items()}
    copied = {key: value.clone() for key, value in shared.items()}
    expected, _ = native.task_updates(shared, tasks)
    updates, _ = native.task_updates(copied, tasks)
    assert all(torch.equal(updates[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ("name", "half", "value", "said"),
    [
        ("one layer", "y", 5, "a label is negative or not below the number of outputs"),
        ("odd image", "y", -1, "a label is negative or not below the number of outputs"),
        ("one LSTM layer", "x", 11, "a token is negative or not below the size of the vocabulary"),
    ],
)
def test_an_index_out_of_range_is_an_error_and_reads_no_memory(
    name: str, half: str, value: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cases, "KERNELS", "native")
    native = make_learner("maml", SHAPES[name])
    tasks, state = make_tasks(native.spec), make_state(native)
    wrong = tasks.query[half].clone()
    wrong[1, 2] = value
    with pytest.raises(IndexError, match=said):
        native.task_updates(state, TaskBatch(tasks.support, {**tasks.query, half: wrong}))


class Halved(MAML):
    """Takes half of each inner gradient: a user's change of one step of MAML."""

    def inner_gradient(self, *args: Any, **kwargs: Any) -> Any:
        found = super().inner_gradient(*args, **kwargs)
        return found._replace(values={key: value / 2 for key, value in found.values.items()})


def test_a_subclass_that_changes_the_inner_loop_is_not_bypassed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = SHAPES["two targets"]
    here = f"{__name__}:{Halved.__name__}"
    _, native = both(monkeypatch, here, case, inner_lr=0.2)
    plain = make_learner("maml", case, inner_lr=0.1)
    tasks, state = make_tasks(case.spec), make_state(native)
    assert_close(native.task_updates(state, tasks)[0], plain.task_updates(state, tasks)[0])


class LayerRates(MetaSGD):
    """A learned rate per layer: fewer numbers than weights, which broadcast."""

    def init(self, generator: torch.Generator) -> Tensors:
        weights = self.model.init(generator)
        return weights | {f"lr.{key}": torch.full([1] * v.dim(), 0.02) for key, v in weights.items()}


class RenamedRates(MetaSGD):
    """The same rates as Meta-SGD's, under names of its own."""

    def init(self, generator: torch.Generator) -> Tensors:
        return {k.replace("lr.", "rate of "): v for k, v in super().init(generator).items()}

    def weights(self, state: Tensors) -> Tensors:
        return {key: value for key, value in state.items() if not key.startswith("rate of ")}

    def rates(self, state: Tensors) -> Tensors:
        return {key: state[f"rate of {key}"] for key in self.weights(state)}


@pytest.mark.parametrize("kind", [LayerRates, RenamedRates])
def test_a_subclass_with_other_rates_is_computed_as_autograd_does(
    kind: type[MAML], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = SHAPES["two targets"]
    eager, native = both(monkeypatch, f"{__name__}:{kind.__name__}", case)
    tasks, state = make_tasks(case.spec), make_state(native)
    assert_close(native.task_updates(state, tasks)[0], eager.task_updates(state, tasks)[0])


class OtherLoss(Screening):
    @override
    def loss(self, prediction: torch.Tensor, examples: Examples) -> torch.Tensor:
        return super().loss(prediction, examples) * 2


@pytest.mark.parametrize(
    ("objective", "expected"), [(Classification, 0), (Screening, 0), (Ratings, 1), (OtherLoss, None)]
)
def test_an_objective_with_other_measures_has_kernels_and_one_with_another_loss_has_none(
    objective: type[Objective], expected: int | None
) -> None:
    assert loss_of(objective) == expected


def test_a_vector_of_other_shapes_is_multiplied_by_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    eager, native = both(monkeypatch, "maml", SHAPES["two targets"])
    tasks, state = make_tasks(native.spec), make_state(native)
    along = {key: torch.ones([1] * value.dim()).double() for key, value in state.items()}
    found = native.objective.hvp(native.model, state, tasks.support, along)
    assert_close(found, eager.objective.hvp(eager.model, state, tasks.support, along))


def test_shapes_without_a_kernel_are_left_to_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other shapes of parameters, inputs or targets must never reach the C code."""
    monkeypatch.setattr(cases, "KERNELS", "native")
    native = make_learner("maml", SHAPES["two targets"])
    own = native.model.kernel
    assert isinstance(own, Kernel)
    tasks, state = make_tasks(native.spec), make_state(native)
    half = tasks.support
    assert own.takes_loss(native.objective, state, half)

    def changed(**changes: torch.Tensor) -> Mapping[str, torch.Tensor]:
        return {**half, **changes}

    wide = {**state, "head.bias": torch.zeros(2, 3).double()}
    for params, examples in (
        (wide, half),
        ({k: v for k, v in state.items() if k != "head.bias"}, half),
        ({k: v.half() for k, v in state.items()}, half),
        (state, changed(x=half["x"].float())),
        (state, changed(x=half["x"][..., :2])),
        (state, changed(y=half["y"][:, :3])),
        (state, changed(x=half["x"][:1], y=half["y"][:1])),
        (state, changed(x=half["x"][:, :0], y=half["y"][:, :0])),
        (state, changed(mask=torch.ones(2, 6, dtype=torch.bool))),
        (state, changed(x=half["x"].to("meta"))),
    ):
        assert not own.takes_loss(native.objective, params, examples)


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of libraries for this test; afterwards the machine's own are loaded again."""
    monkeypatch.setenv("FEDMETA_KERNELS", str(tmp_path))
    kernel._library.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    kernel._library.cache_clear()
    assert choose_kernels("auto", able=True) == "native"


def test_without_a_compiler_runs_use_autograd_and_say_why(
    libraries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(libraries))
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    assert choose_kernels("auto", able=True) == "eager"
    with pytest.raises(ConfigError, match=r"no C compiler .* choose 'auto' or 'eager'"):
        choose_kernels("native", able=True)


def test_a_library_that_cannot_be_loaded_leaves_autograd(libraries: Path) -> None:
    """As one of a wheel from a machine with another C library."""
    kind = build.processor()
    assert kind is not None
    for dtype in build.DTYPES:
        (libraries / build.library_path(dtype, kind).name).write_bytes(b"no library")
    assert choose_kernels("auto", able=True) == "eager"
    with pytest.raises(ConfigError, match=r"cannot be compiled or loaded.* choose 'auto'"):
        choose_kernels("native", able=True)


def test_what_has_no_kernel_is_computed_by_autograd() -> None:
    assert choose_kernels("auto", able=False) == choose_kernels("native", able=False) == "eager"


def test_a_compiler_that_fails_leaves_no_library(tmp_path: Path) -> None:
    path = tmp_path / "kernels" / "made.so"
    with pytest.raises(OSError, match="false failed"):
        build.build("float32", "avx2", ["false"], path)
    assert not any(path.parent.iterdir())


def digests() -> dict[str, str]:
    """Digests of updates and metrics of every shape; a process prints them with its own libraries."""
    found = {}
    for name, case in SHAPES.items():
        for dtype in (torch.float32, torch.float64):
            learner = make_learner("meta_sgd", case, inner_lr=0.02, inner_steps=3)
            state = {key: value.to(dtype) for key, value in make_state(learner).items()}
            updates, metrics = learner.task_updates(state, make_tasks(case.spec).to(dtype))
            values = [value.contiguous().numpy() for value in (*updates.values(), *metrics.values())]
            found[f"{name} {dtype}"] = hashlib.sha256(b"".join(v.tobytes() for v in values)).hexdigest()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("bytes_", [16, 64])
def test_the_width_of_vectors_changes_no_bit(
    bytes_: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries for narrower and wider vectors, as ARM and AVX-512 have them, on this processor."""
    kind, compiler = build.processor(), build.find_compiler()
    assert kind is not None
    assert compiler is not None
    for dtype in build.DTYPES:
        path = tmp_path / build.library_path(dtype, kind).name
        build.build(dtype, kind, [*compiler, f"-DVECTOR_BYTES={bytes_}"], path)
    shown = (
        "import json\nfrom tests.learning import cases\nfrom tests.learning.native import test_kernel\n"
        "cases.KERNELS = 'native'\nprint(json.dumps(test_kernel.digests()))"
    )
    other = subprocess.run(
        [sys.executable, "-c", shown], env=os.environ | {"FEDMETA_KERNELS": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    monkeypatch.setattr(cases, "KERNELS", "native")
    assert json.loads(other.stdout) == digests()


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("flag", ["address", "undefined"])
def test_sanitizers_find_nothing(flag: str, tmp_path: Path) -> None:
    """The tests of this file again, with libraries that check each access to memory."""
    kind, compiler = build.processor(), build.find_compiler()
    assert kind is not None
    assert compiler is not None
    checks = [f"-fsanitize={flag}", "-fno-sanitize-recover=all", "-O1", "-g"]
    for dtype in build.DTYPES:
        path = tmp_path / build.library_path(dtype, kind).name
        build.build(dtype, kind, [*compiler, *checks], path)
    runtime = subprocess.run(
        [*compiler, f"-print-file-name=lib{'a' if flag == 'address' else 'ub'}san.so"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    settings = {
        "FEDMETA_KERNELS": str(tmp_path),
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:faulthandler", __file__],
        env=os.environ | settings, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]


def test_a_plan_says_what_the_c_code_reads() -> None:
    """The MLP of MAML's sinusoids: depth, ReLU, a head, and the widths."""
    learner = make_learner("maml", Case("mlp", {"hidden": [40, 40]}, TaskSpec("regression", (1,), 1)))
    plan = learner.model.kernel_plan()  # type: ignore[attr-defined]
    assert plan.sizes == (3, 0, 1, 1, 40, 40, 1)
    assert plan.keys[0] == "hidden0.weight"
    assert replace(plan, outputs=2).outputs == 2
