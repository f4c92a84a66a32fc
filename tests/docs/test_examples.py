"""The documentation's examples run as shown and compute what the pages claim."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import Ridge

import fedmeta
from fedmeta.errors import ConfigError
from fedmeta.experiment import RunFolder, load_config, run
from fedmeta.experiment.planning import resolve, workload
from fedmeta.federation import Learner
from fedmeta.federation.part_tables import read_postprocessors
from fedmeta.learning import Algorithm, AlgorithmSetup, LocalWork, Tensors, build_algorithm, build_model
from fedmeta.learning.algorithm_trial import try_on_device
from fedmeta.parts import POSTPROCESSORS
from fedmeta.tasks import Population, TaskBatch, TaskFamily, TaskSpec, build_family, stream
from fedmeta.tasks import torch_generator as generator
from fedmeta.training import evaluate
from tests import processes
from tests.learning.cases import assert_gradient, loss_after, make_state, make_tasks
from tests.second_device import NAME, SecondDevice

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
SPEC = TaskSpec("regression", (1,), 1)
PAGES_COMMAND = [sys.executable, "-m", "fedmeta", "run", "ridge.toml"]
TASK_SIREN = {"model": "siren:TaskSiren"}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "task family": ("swings.toml", {"rounds": 120}),
    "module": ("siren.toml", {"rounds": 15}),
    "model": ("siren.toml", {"rounds": 60, **TASK_SIREN}),
    "algorithm": ("ridge.toml", {"rounds": 40}),
    "variant": ("siren.toml", {"rounds": 60, **TASK_SIREN, "algorithm": "anil:ANIL"}),
}


@pytest.fixture(autouse=True)
def _beside_the_examples(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Import the examples as from their folder, and remove them from `sys.modules` afterwards."""
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    for path in EXAMPLES.glob("*.py"):
        sys.modules.pop(path.stem, None)


def swings(seed: int = 3) -> TaskFamily:
    return build_family("swings:Swings", {"shots": 6, "queries": 8}, Population(4), seed)


def learner(algorithm: str, model: str = "siren:TaskSiren", **options: Any) -> Algorithm:
    return build_algorithm(AlgorithmSetup(algorithm, options, model, {"width": 5}), SPEC)


@pytest.mark.parametrize(("toml", "settings"), RUNS.values(), ids=list(RUNS))
def test_clients_never_seen_adapt_twice_as_well_as_without_meta_training(
    toml: str, settings: Mapping[str, Any], tmp_path: Path
) -> None:
    settings = {**settings, "workers": 1, "evaluation.tasks": 20}
    final = run(toml, settings, out=tmp_path / "run").final
    clients = workload(resolve(load_config(toml, settings)))
    untrained = evaluate(clients, Learner.build(clients).init_state(), "test")
    assert final[-1].loss < 0.5 * final[0].loss
    assert final[-1].loss < 0.5 * untrained[-1].loss


def test_the_command_that_the_pages_give_works(tmp_path: Path) -> None:
    done = processes.run(
        [*PAGES_COMMAND, "-s", "rounds=2", "-s", "workers=1", "--out", str(tmp_path / "run")]
    )
    assert done.returncode == 0, done.stderr
    assert "held-out clients" in done.stdout
    assert done.stderr == ""


def test_a_head_stays_at_home_and_the_body_takes_the_local_steps_of_the_whole() -> None:
    """FedPer by hand for each of two clients: plain gradient descent on a whole network."""
    algorithm = build_algorithm(
        AlgorithmSetup("fedper:FedPer", {}, "mlp", {"hidden": [5]}),
        TaskSpec("classification", (3,), 4),
    )
    whole = build_algorithm(
        AlgorithmSetup("fedavg", {}, "mlp", {"hidden": [5]}), TaskSpec("classification", (3,), 4)
    )
    body = {key: value.double() for key, value in algorithm.init(generator(1, "body")).items()}
    assert set(whole.init(generator(1, "body"))) - set(body) == {"head.weight", "head.bias"}
    heads = {
        key: torch.randn(2, *value.shape, dtype=torch.float64, generator=generator(2, key))
        for key, value in algorithm.init_client(0).items()
    }
    tasks = make_tasks(TaskSpec("classification", (3,), 4), tasks=6, support=4, query=4)
    work = LocalWork([0, 1], tasks, 3, 0.3, algorithm.task_updates)
    start = {key: value.expand(2, *value.shape) for key, value in body.items()}
    update, after, _ = algorithm.local_update(start, heads, work)
    assert update.keys() == body.keys()
    for client in range(2):
        own = {key: value[None] for key, value in body.items()}
        own |= {key: value[client : client + 1] for key, value in heads.items()}
        for step in range(3):
            row = 3 * client + step
            gradient, _ = whole.task_updates(own, tasks[row : row + 1])
            own = {key: value - 0.3 * gradient[key] for key, value in own.items()}
        for key, value in own.items():
            found = after[key][client] if key in heads else body[key] - 0.3 * update[key][client]
            torch.testing.assert_close(found, value[0], rtol=1e-12, atol=1e-14)


def test_with_own_heads_clients_know_their_own_images_better(tmp_path: Path) -> None:
    seen = {}
    for name in ("fedper:FedPer", "fedavg"):
        settings = {"algorithm": name, "rounds": 25, "workers": 1, "evaluation.tasks": 5}
        run("fedper.toml", settings, out=tmp_path / name[:6])
        seen[name] = RunFolder.open(tmp_path / name[:6]).metrics()[-1]["accuracy"]
    assert seen["fedper:FedPer"] > seen["fedavg"] + 0.1


def test_clients_send_adapters_and_a_head_and_the_base_stays_as_it_was(tmp_path: Path) -> None:
    seen = generator(0, "base")
    shapes = {"1.weight": (128, 64), "1.bias": (128,), "3.weight": (64, 128), "3.bias": (64,)}
    base = {key: 0.1 * torch.randn(shape, generator=seen) for key, shape in shapes.items()}
    save_file(base | {"5.weight": torch.zeros(10, 64)}, tmp_path / "base.safetensors")
    settings = {
        "network.base": str(tmp_path / "base.safetensors"),
        "rounds": 2,
        "workers": 1,
        "evaluation.tasks": 2,
    }
    run("adapters.toml", settings, out=tmp_path / "run")
    learned = fedmeta.load(tmp_path / "run", trust_code=True).state
    assert sum(value.numel() for value in learned.values()) == 4 * 2 * (64 + 128) + 65 * 5
    held = load_file(tmp_path / "run" / "checkpoints" / "constants.safetensors")
    assert torch.equal(held["body.1.parametrizations.weight.original"], base["1.weight"])
    assert torch.equal(held["body.3.bias"], base["3.bias"])


def test_the_largest_tenth_is_sent_and_the_rest_comes_later() -> None:
    """Two rows of ten: 9 of (0..9) goes first; then twice 8, as it was left out once, and so on."""
    kind = "top_tenth:TopTenth"
    (table,) = read_postprocessors([{"kind": kind}])
    part = POSTPROCESSORS.get(kind)(table.options)
    values = torch.stack([torch.arange(10.0), -torch.arange(10.0).flip(0)])
    state = {key: value[None].expand(2, 10) for key, value in part.init({"w": torch.zeros(10)}).items()}
    sent, total = [], torch.zeros(2, 10)
    for _ in range(3):
        update, state = part.apply({"w": values}, state)
        sent.append(update["w"])
        total = total + values
        torch.testing.assert_close(sum(sent) + state["w"], total)
        assert [int(row.count_nonzero()) for row in update["w"]] == [1, 1]
    assert [float(update[0].max()) for update in sent] == [9.0, 16.0, 21.0]


def test_a_client_has_one_pendulum() -> None:
    """``a exp(-g t) cos(w t + p)`` is a mix of ``exp(-g t) cos(w t)`` and ``exp(-g t) sin(w t)``: with
    the client's g and w, the two weights that fit the support set predict the query set."""
    family = swings()

    def residual(tasks: TaskBatch, pendulum: tuple[float, float]) -> float:
        damping, frequency = pendulum

        def basis(x: torch.Tensor) -> np.ndarray:
            t = (x.numpy().astype(np.float64)[..., 0] + 1) * 2
            wave = np.stack([np.cos(frequency * t), np.sin(frequency * t)], axis=-1)
            return np.exp(-damping * t)[..., None] * wave

        errors = []
        for task in range(len(tasks)):
            x, y = basis(tasks.support_x[task]), tasks.support_y[task].numpy()
            weights = np.linalg.lstsq(x, y, rcond=None)[0]
            errors.append(basis(tasks.query_x[task]) @ weights - tasks.query_y[task].numpy())
        return float(np.abs(errors).max())

    tasks = family.sample(2, 5, stream(0, "test"))
    own, other = (family.pendulum(client) for client in (2, 3))  # type: ignore[attr-defined]
    assert residual(tasks, own) < 1e-4
    assert residual(tasks, other) > 0.1


def test_tasks_depend_on_the_seed_the_client_and_the_generator_alone() -> None:
    def x(seed: int, client: int, path: str) -> torch.Tensor:
        return swings(seed).sample(client, 2, stream(0, path)).support_y

    assert x(3, 1, "a").equal(x(3, 1, "a"))
    assert not x(3, 1, "a").equal(x(4, 1, "a"))
    assert not x(3, 1, "a").equal(x(3, 2, "a"))
    assert not x(3, 1, "a").equal(x(3, 1, "b"))


def test_the_network_on_the_task_axis_computes_what_the_module_does() -> None:
    module = build_model("siren:Siren", {"width": 5}, SPEC, 1)
    stacked = build_model("siren:TaskSiren", {"width": 5}, SPEC, 1)
    tasks: list[Tensors] = [module.init(generator(seed, "siren")) for seed in range(3)]
    weights = {key: torch.stack([task[key].double() for task in tasks]) for key in tasks[0]}
    transposed = {k: v.mT if k.endswith("weight") else v for k, v in weights.items()}
    assert {k: v.shape[1:] for k, v in transposed.items()} == {
        key: value.shape for key, value in stacked.init(generator(0, "siren")).items()
    }
    x = torch.randn(3, 7, 1, dtype=torch.float64, generator=generator(0, "x"))
    torch.testing.assert_close(
        stacked.forward(transposed, x), module.forward(weights, x), rtol=1e-12, atol=1e-12
    )


def test_the_ridge_head_is_the_one_that_scikit_learn_finds() -> None:
    algorithm, tasks = learner("ridge:RidgeHead", ridge=0.3), make_tasks(SPEC)
    state = {key: value.detach() for key, value in make_state(algorithm).items()}
    adapted = algorithm.adapt(state, tasks.support, 1)
    weights = {key: value for key, value in state.items() if key != "log_ridge"}
    for task in range(len(tasks)):
        features = algorithm.model.forward(weights, tasks.support_x)[task].numpy()
        design = np.hstack([features, np.ones((len(features), 1))])
        ridge = Ridge(alpha=float(state["log_ridge"][task].exp()), fit_intercept=False)
        expected = ridge.fit(design, tasks.support_y[task].numpy()).coef_
        np.testing.assert_allclose(adapted["head"][task].numpy().ravel(), expected.ravel(), rtol=1e-8)


@pytest.mark.parametrize(
    ("name", "steps", "options"),
    [
        ("ridge:RidgeHead", 1, {}),
        ("anil:ANIL", 1, {"inner_lr": 0.1, "inner_steps": 1}),
        ("anil:ANIL", 3, {"inner_lr": 0.1, "inner_steps": 3}),
    ],
)
def test_a_meta_gradient_is_that_of_finite_differences(
    name: str, steps: int, options: dict[str, Any]
) -> None:
    algorithm, tasks = learner(name, **options), make_tasks(SPEC)
    state = make_state(algorithm)
    updates, metrics = algorithm.task_updates(state, tasks)
    assert_gradient(lambda moved: loss_after(algorithm, moved, tasks, steps), state, updates)
    assert float(metrics["loss"].sum()) == pytest.approx(loss_after(algorithm, state, tasks, steps))


@pytest.mark.parametrize("name", ["ridge:RidgeHead", "anil:ANIL"])
def test_algorithms_compute_on_the_device_of_their_tasks(name: str) -> None:
    with SecondDevice():
        try_on_device(learner(name), make_tasks(SPEC), torch.float64, torch.device(NAME), name)


def test_anil_moves_the_head_of_a_task_and_nothing_else() -> None:
    algorithm, tasks = learner("anil:ANIL", inner_lr=0.1), make_tasks(SPEC)
    state = make_state(algorithm)
    adapted = algorithm.adapt(state, tasks.support, 2)
    moved = {key for key in state if not adapted[key].equal(state[key])}
    assert moved == {"head.weight", "head.bias"}


def test_examples_refuse_tasks_that_they_do_not_fit() -> None:
    images = TaskSpec("classification", (8, 8), 5)
    with pytest.raises(ConfigError, match=r"'TaskSiren' reads one number, not inputs of \(8, 8\)"):
        build_model("siren:TaskSiren", {}, images, 5)
    with pytest.raises(ConfigError, match="'RidgeHead' needs a regression task"):
        build_algorithm(AlgorithmSetup("ridge:RidgeHead", {}, "mlp", {}), images)
