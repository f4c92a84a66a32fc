"""Vowels: a class is a speaker, and held-out clients have speakers of their own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmeta.errors import ConfigError, MissingDataError
from fedmeta.tasks import Population, build_family, data_digest, shape_of_tasks, stream
from fedmeta.tasks.families.vowels import Vowels, stretch
from tests.tasks.data.vowels_writing import write_utterances

OPTIONS: dict[str, Any] = {"queries": 2}
POPULATION = Population(2, 0, 1)


def family(population: Population = POPULATION, seed: int = 0, **options: Any) -> Vowels:
    built = build_family("vowels", OPTIONS | options, population, seed)
    assert isinstance(built, Vowels)
    return built


def speakers(built: Vowels, client: int) -> set[str]:
    held = built.clients[client]
    rows = [row[:size] for row, size in zip(held.table, held.sizes, strict=True)]
    return {built.utterances[row].speaker for row in np.concatenate(rows).tolist()}


def test_households_have_three_speakers_and_the_test_household_is_the_named_one(folders: Path) -> None:
    write_utterances(folders)
    built = family(test_speakers=["2", "5", "9"])
    assert built.spec == shape_of_tasks("vowels", OPTIONS)
    assert speakers(built, 2) == {"2", "5", "9"}
    assert len(speakers(built, 0)) == len(speakers(built, 1)) == 3
    assert speakers(built, 0) | speakers(built, 1) == set("134678")
    both = family(
        Population(1, 1, 1), test_speakers=["1", "2", "3"], validation_speakers=["4", "5", "6"]
    )
    assert [speakers(both, client) for client in range(3)] == [set("789"), set("456"), set("123")]


def test_without_names_the_seed_draws_three_speakers(folders: Path) -> None:
    write_utterances(folders)
    drawn = {tuple(sorted(speakers(family(seed=seed), 2))) for seed in range(6)}
    assert len(drawn) > 1
    assert {len(one) for one in drawn} == {3}
    held_out = family(Population(1, 1, 1))
    assert len(speakers(held_out, 1) | speakers(held_out, 2)) == 6


def test_a_task_has_utterances_of_its_speakers_alone(folders: Path) -> None:
    write_utterances(folders)
    built = family(test_speakers=["1", "2", "3"], shots=2)
    # The speaker in place of the cepstra.
    built.pool = torch.tensor([[[float(one.speaker)]] for one in built.utterances])
    tasks = built.sample(2, 20, stream(0))
    assert tasks.support_x.shape == (20, 6, 1, 1)
    for t in range(20):
        named = {
            (int(x), int(y))
            for side, labels in ((tasks.support_x, tasks.support_y), (tasks.query_x, tasks.query_y))
            for x, y in zip(side[t, :, 0, 0], labels[t], strict=True)
        }
        assert len(named) == 3
        assert {speaker for speaker, _ in named} == {1, 2, 3}


def test_iid_deals_the_utterances_of_all_training_speakers(folders: Path) -> None:
    write_utterances(folders)
    built = family(test_speakers=["1", "2", "3"], partition="iid")
    assert speakers(built, 0) == speakers(built, 1) == set("456789")
    assert speakers(built, 2) == set("123")


def test_inputs_are_standardised_by_the_frames_of_training_speakers(folders: Path) -> None:
    write_utterances(folders)
    built = family(test_speakers=["1", "2", "3"], frames=7)
    training = [one for one in built.utterances if one.speaker in "456789"]
    frames = np.concatenate([one.cepstra for one in training])
    row = next(place for place, one in enumerate(built.utterances) if len(one.cepstra) == 7)
    expected = (built.utterances[row].cepstra - frames.mean(0)) / frames.std(0)
    np.testing.assert_allclose(built.pool[row].numpy(), expected, rtol=1e-5)


def test_stretching_keeps_both_ends_and_a_straight_line() -> None:
    line = np.linspace(0.0, 8.0, 9)[:, None].repeat(12, 1)
    for frames in (2, 5, 17):
        np.testing.assert_allclose(stretch(line, frames)[:, 3], np.linspace(0.0, 8.0, frames))


@pytest.mark.parametrize(
    ("population", "options", "message"),
    [
        (POPULATION, {"test_speakers": []}, "data.test_speakers: must not be empty"),
        (POPULATION, {"test_speakers": ["0"]}, "data.test_speakers: unknown speaker '0'"),
        (POPULATION, {"test_speakers": ["1", "1"]}, "'1' is named twice"),
        (POPULATION, {"validation_speakers": ["1"]}, "names speakers, but validation_clients = 0"),
        (POPULATION, {"test_speakers": list("123456789")}, "leave none to train on"),
        (
            POPULATION,
            {"test_speakers": ["1", "2"]},
            "data.test_ways = 3, but test client 2 has 2 classes",
        ),
        (Population(4, 0, 1), {}, "data.ways = 3, but train client"),
        (POPULATION, {"shots": 11}, "classes of 13 or more utterances"),
    ],
)
def test_what_the_speakers_cannot_serve_is_one_line(
    folders: Path, population: Population, options: dict[str, Any], message: str
) -> None:
    write_utterances(folders)
    with pytest.raises(ConfigError, match=message) as refusal:
        family(population, **options)
    assert "\n" not in str(refusal.value)


def test_the_files_have_a_digest_and_without_them_the_command_is_named(folders: Path) -> None:
    with pytest.raises(MissingDataError, match="`fedmeta data fetch vowels`"):
        family()
    write_utterances(folders)
    first = data_digest("vowels", OPTIONS, POPULATION, family)
    write_utterances(folders, takes=5)
    assert data_digest("vowels", OPTIONS, POPULATION, family) != first
