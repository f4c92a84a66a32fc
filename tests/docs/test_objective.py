"""The objective of the documentation: values found by hand and by scikit-learn, and a run with it."""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score

from fedmeta import Population, RunFolder, TaskBatch, TaskSpec, run
from fedmeta.learning import Algorithm, AlgorithmSetup, build_algorithm
from fedmeta.learning.algorithm_trial import try_on_device
from fedmeta.tasks import Examples, Objective, build_family, build_objective, padded, stream
from fedmeta.tasks.family_check import CheckedFamily
from tests.learning.cases import assert_gradient, loss_after, make_state
from tests.second_device import NAME, SecondDevice

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


@pytest.fixture(autouse=True)
def _beside_the_examples(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Import the examples as from their folder, and remove them from `sys.modules` afterwards."""
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    for path in EXAMPLES.glob("*.py"):
        sys.modules.pop(path.stem, None)


def ranking() -> Objective:
    return build_objective(TaskSpec("ranking:Ranking", (2,), 1))


def rated(*ratings: float) -> Examples:
    return {"item": torch.zeros(len(ratings), 2).double(), "rating": torch.tensor(ratings).double()}


def scores(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows).double().unsqueeze(-1)


def test_values_by_hand_of_two_tasks_of_different_size() -> None:
    """Ratings 1, 3, 0 with scores 2, 1, 0: the order is 1, 3, 0 and the gains are 1, 7, 0.

    nDCG = (1 + 7 / log2 3) / (7 + 1 / log2 3). Of the pairs (3, 1), (3, 0), (1, 0), with gaps -1, 1 and
    2, one is in the wrong order. The second task has two items, in the right order by 3; what padding
    scores has no say.
    """
    half = padded([rated(1, 3, 0), rated(2, 1)], 3)
    prediction = scores([2, 1, 0], [4, 1, 99])
    found = ranking().measure(prediction, half)
    worse = (1 + 7 / math.log2(3)) / (7 + 1 / math.log2(3))
    assert found["ndcg@5"].tolist() == pytest.approx([worse, 1.0])
    assert found["misordered"].tolist() == pytest.approx([1 / 3, 0.0])
    pairs = [math.log(1 + math.exp(-gap)) for gap in (-1, 1, 2)]
    expected = [sum(pairs) / 3, math.log(1 + math.exp(-3))]
    assert ranking().loss(prediction, half).tolist() == pytest.approx(expected)


def test_ndcg_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    ratings, said = rng.random((4, 9)) * 5, rng.standard_normal((4, 9))
    half = {"item": torch.zeros(4, 9, 2), "rating": torch.from_numpy(ratings)}
    found = ranking().measure(torch.from_numpy(said).unsqueeze(-1), half)["ndcg@5"]
    # scikit-learn takes gains as they are.
    expected = [ndcg_score([2**r - 1], [s], k=5) for r, s in zip(ratings, said, strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def ranker() -> Algorithm:
    setup = AlgorithmSetup("maml", {"inner_lr": 0.3, "inner_steps": 2}, "mlp", {"hidden": [5]})
    return build_algorithm(setup, TaskSpec("ranking:Ranking", (6,), 1))


def test_it_computes_on_the_device_of_its_tasks() -> None:
    tasks = users().sample(1, 2, stream(0, "test")).to(torch.float64)
    with SecondDevice():
        try_on_device(ranker(), tasks, torch.float64, torch.device(NAME), "ranking")


def test_a_meta_gradient_through_it_is_that_of_finite_differences() -> None:
    learner, state = ranker(), make_state(ranker())
    tasks = users().sample(1, 2, stream(0, "test")).to(torch.float64)
    updates, metrics = learner.task_updates(state, tasks)
    assert_gradient(lambda moved: loss_after(learner, moved, tasks, 2), state, updates)
    assert list(metrics) == [
        "loss_before",
        "loss",
        "ndcg@5_before",
        "misordered_before",
        "ndcg@5",
        "misordered",
    ]


def users(**options: Any) -> CheckedFamily:
    population = Population(6, 0, 2)
    return CheckedFamily(build_family("tastes:Tastes", options, population, 4), population)


def test_a_user_has_one_taste_and_tasks_of_any_size() -> None:
    """Ratings that are not cut are linear in the item, by one taste in all tasks of a client."""
    tasks: TaskBatch = users(ratings=12).sample(3, 50, stream(0, "test"))
    sizes = tasks.support["mask"].sum(1)
    assert (sizes.min(), sizes.max()) == (6, 12)
    items, ratings = tasks.query["item"].flatten(0, 1).numpy(), tasks.query["rating"].flatten().numpy()
    inside = (ratings > 0) & (ratings < 5)
    taste, residual, *_ = np.linalg.lstsq(items[inside], ratings[inside] - 2.5, rcond=None)
    assert float(residual[0]) < 1e-6
    assert np.abs(taste).max() > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda half: half.pop("rating"), "have no 'rating'"),
        (lambda half: half.update(rating=half["rating"][:, :-1]), "support_rating has shape"),
        (lambda half: half.update(item=half["item"] * math.nan), "support_item holds NaN"),
        (lambda half: half.update(mask=half["mask"] & False), "leaves a task without any example"),
        (lambda half: half.update(mask=half["mask"].float()), "support_mask is float32"),
    ],
)
def test_wrong_tasks_are_refused_with_their_client(change: Any, message: str) -> None:
    family = users()

    class Wrong:
        spec, population = family.spec, family.population

        def sample(self, *asked: Any) -> TaskBatch:
            tasks = family.sample(*asked)
            support = dict(tasks.support)
            change(support)
            return TaskBatch(support, tasks.query)

    from fedmeta.errors import DataError

    with pytest.raises(DataError, match=f"tasks of client 2.*{message}") as refusal:
        CheckedFamily(Wrong(), family.population).sample(2, 3, stream(0, "test"))  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)


def test_users_never_seen_are_put_in_order_after_a_few_ratings(tmp_path: Path) -> None:
    settings = {"rounds": 60, "workers": 1, "evaluation.tasks": 20}
    final = run("tastes.toml", settings, out=tmp_path / "run").final
    assert final[-1].loss < 0.8 * final[0].loss
    assert json.loads((tmp_path / "run" / "run.json").read_text())["spec"]["objective"] == (
        "ranking:Ranking"
    )


SETTINGS = {
    "rounds": 4,
    "clients": 8,
    "test_clients": 2,
    "validation_clients": 2,
    "cohort": 4,
    "workers": 1,
    "checkpoint_every": 1,
    "evaluation.tasks": 5,
    "evaluation.every": 1,
    "evaluation.steps": [0, 1],
}


def test_a_runs_measures_are_used_from_the_reply_to_the_page(tmp_path: Path) -> None:
    """Nothing but the family names the objective: all else learns of it from there or the files."""

    from fedmeta.cli.tables import final_table
    from fedmeta.report.read import read_head
    from fedmeta.report.writing import write_report

    result = run("tastes.toml", SETTINGS, out=tmp_path / "run")
    folder = RunFolder.open(result.run)
    assert [one["name"] for one in folder.info["measures"]] == ["ndcg@5", "misordered", "loss"]
    rows: list[Any] = folder.metrics()
    for row in rows:
        assert 0 < row["ndcg@5_before"] <= 1
        assert 0 < row["ndcg@5"] <= 1
        assert row["accuracy"] is None
        assert row["evaluation"][-1]["ndcg@5_ci95"] == row["evaluation"][-1]["ci95"] is not None
    assert all(0 <= row["misordered"] <= 1 for row in folder.clients() if row["admitted"])  # type: ignore[typeddict-item]
    validated = [row["evaluation"][-1]["ndcg@5"] for row in rows]
    best = folder.checkpoints.load(4)[1]
    assert (best.best_round, best.best_score) == (1 + int(np.argmax(validated)), max(validated))
    assert list(read_head(result.run).measures) == ["ndcg@5", "misordered", "loss"]
    headers = [column.header for column in final_table("mine", result.final).columns]
    assert headers == ["adaptation steps", "ndcg@5", "over tasks", "misordered", "loss"]
    write_report([result.run], out=tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Ndcg@5 by round" in page
    assert "Spread of ndcg@5 over test clients" in page


def test_arms_are_compared_by_the_main_measure(tmp_path: Path) -> None:
    from fedmeta import Execution, compare

    settings = SETTINGS | {"rounds": 2, "compare.points": 2}
    done = compare(
        "tastes.toml",
        settings,
        arms=["federated", "untrained"],
        seeds=1,
        execution=Execution(out=tmp_path / "compared"),
    )
    data = done.data
    assert (data["measure"], data["scale"]["higher_is_better"]) == ("ndcg@5", True)
    federated = data["arms"][0]["final"][-1]["mean"]
    assert 0 < federated <= 1
    assert data["target"]["value"] == pytest.approx(0.95 * federated)
    assert data["target"]["why"] == "95% of federated's final ndcg@5"
