"""Parkinson's telemonitoring: visits in the order of time, on the scale of the training patients."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmeta.errors import ConfigError, MissingDataError
from fedmeta.tasks import Population, build_family, data_digest, shape_of_tasks, stream
from fedmeta.tasks.families.parkinsons import Parkinsons
from tests.tasks.conftest import real_file
from tests.tasks.data.parkinsons_writing import FILE, VISITS, write_measurements

OPTIONS: dict[str, Any] = {"shots": 2, "queries": 2}
POPULATION = Population(3, 0, 1)


def family(population: Population = POPULATION, seed: int = 0, **options: Any) -> Parkinsons:
    built = build_family("parkinsons", OPTIONS | options, population, seed)
    assert isinstance(built, Parkinsons)
    return built


def visits(built: Parkinsons, y: torch.Tensor, client: int) -> list[list[int]]:
    """The visit of each recording, by its score: 10 per patient and 1 per visit."""
    scores = y[..., 0].double() * 10 + built.mean - 10 * int(built.names[client])
    assert torch.allclose(scores, scores.round(), atol=1e-4)
    return [[int(score) for score in task] for task in scores.round().tolist()]


def test_query_visits_are_later_than_support_visits(folders: Path) -> None:
    write_measurements(folders)
    built = family()
    starts = set()
    for client in range(4):
        tasks = built.sample(client, 40, stream(client))
        assert tasks.support_x.shape == (40, 2, 16)
        early, late = (visits(built, half, client) for half in (tasks.support_y, tasks.query_y))
        for first, second in zip(early, late, strict=True):
            assert first == [first[0], first[0] + 1]
            assert second[0] > first[1]
            assert second[1] > second[0]
        seen = {first[0] for first in early}
        if built.population.split_of(client) == "test":
            assert seen == {0}, "a new patient's first visits"
        else:
            starts |= seen
        assert {visit for second in late for visit in second} <= set(range(2, VISITS))
    assert starts == {0, 1, 2}


def test_training_tasks_may_begin_at_the_first_visit_too(folders: Path) -> None:
    write_measurements(folders)
    built = family(start="first")
    assert {task[0] for task in visits(built, built.sample(0, 30, stream(0)).support_y, 0)} == {0}


def test_inputs_are_standardised_on_the_training_patients_alone(folders: Path) -> None:
    path = write_measurements(folders)
    built = family(test_patients=[4], inputs=["person", "time", "voice"])
    rows = np.genfromtxt(path, delimiter=",", skip_header=1)
    training = rows[:, 0] < 4
    raw = [rows[:, 1], rows[:, 2], rows[:, 3], *np.log(rows[:, 6:18]).T, *rows[:, 18:].T]
    expected = np.stack([(one - one[training].mean()) / one[training].std() for one in raw], axis=1)
    torch.testing.assert_close(built.x, torch.from_numpy(expected).float(), atol=1e-4, rtol=1e-4)
    # Patients 1 to 3 with visits 0 to 5: 20 + 2.5.
    assert built.mean == pytest.approx(22.5)
    assert built.spec.input_shape == (19,)


def test_the_motor_score_is_another_target(folders: Path) -> None:
    write_measurements(folders)
    assert family(test_patients=[4], target="motor_UPDRS").mean == pytest.approx(11.25)


def test_a_client_is_the_patient_that_the_config_names(folders: Path) -> None:
    write_measurements(folders)
    built = family(Population(2, 1, 1), test_patients=[2], validation_patients=[3])
    assert built.names[2:] == ("3", "2")
    assert set(built.names[:2]) == {"1", "4"}
    assert len({family(seed=seed).names for seed in range(8)}) > 1


def test_another_partition_gives_a_training_client_whole_tasks_of_others(folders: Path) -> None:
    write_measurements(folders)
    natural, dealt = (family(test_patients=[4], partition=one) for one in ("natural", "iid"))
    tasks = dealt.sample(0, 60, stream(0))
    scores = torch.cat([tasks.support_y, tasks.query_y], 1)[..., 0] * 10 + dealt.mean
    owners = (scores / 10).floor()
    assert bool((owners == owners[:, :1]).all())
    assert {int(owner) for owner in owners[:, 0].tolist()} == {1, 2, 3}
    same = [built.sample(3, 5, stream(1)).query_x for built in (natural, dealt)]
    assert torch.equal(*same)


@pytest.mark.parametrize(
    ("population", "options", "message"),
    [
        (
            POPULATION,
            {"test_patients": [5]},
            "data.test_patients: unknown patient '5': choose from: 1, 2, 3, 4",
        ),
        (POPULATION, {"test_patients": [1, 2]}, "names 2, but test_clients = 1"),
        (Population(5), {}, "clients = 5, but there are 4 patients"),
        (POPULATION, {"shots": 5}, r"data.shots \+ data.queries = 5 \+ 2, but patient \d has 6 visits"),
        (POPULATION, {"test_queries": 5}, r"data.shots \+ data.test_queries = 2 \+ 5"),
        (POPULATION, {"target": "UPDRS"}, "data.target"),
        (POPULATION, {"inputs": []}, "data.inputs"),
        (POPULATION, {"inputs": ["age"]}, "data.inputs"),
    ],
)
def test_what_the_patients_cannot_serve_is_one_line(
    folders: Path, population: Population, options: dict[str, Any], message: str
) -> None:
    write_measurements(folders)
    with pytest.raises(ConfigError, match=message) as refusal:
        family(population, **options)
    assert "\n" not in str(refusal.value)


def test_without_the_file_the_shape_is_known_and_the_command_named(folders: Path) -> None:
    told = shape_of_tasks("parkinsons", {"inputs": ["voice", "time"]})
    assert told is not None
    assert (told.objective, told.input_shape, told.outputs) == ("clinical_score", (17,), 1)
    with pytest.raises(MissingDataError, match="`fedmeta data fetch parkinsons`"):
        family()
    assert data_digest("parkinsons", {}, POPULATION, family) is None


def test_the_digest_is_that_of_the_numbers(folders: Path) -> None:
    digests = []
    for patients, sign in ((4, ","), (4, "\t"), (5, ",")):
        write_measurements(folders, patients, sign)
        digests.append(data_digest("parkinsons", {}, POPULATION, family))
    assert digests[0] == digests[1] != digests[2]


def test_no_visit_of_an_official_patient_is_split_and_scores_are_lines_in_time() -> None:
    real_file(FILE)
    built = build_family("parkinsons", {}, Population(35, 0, 7), 0)
    assert isinstance(built, Parkinsons)
    assert min(len(one) for one in built.visits) == 17
    scores = built.y[:, 0].numpy() * 10
    spans = [float(np.ptp(scores[rows])) for one in built.visits for rows in one.rows]
    assert max(spans) < 0.1, "points within a visit"
