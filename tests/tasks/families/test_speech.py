"""Spoken digits: a client is a speaker, whose words are known by their pitch here."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmeta.errors import ConfigError, DataError, MissingDataError
from fedmeta.tasks import Population, TaskBatch, build_family, data_digest, shape_of_tasks, stream
from fedmeta.tasks.families.speech import Speech
from tests.tasks.conftest import real_file
from tests.tasks.data.speech_writing import FILE, write_recordings

OPTIONS: dict[str, Any] = {"ways": 10, "seconds": 0.2, "mels": 24, "queries": 2}
POPULATION = Population(2, 0, 1)


def family(population: Population = POPULATION, seed: int = 0, **options: Any) -> Speech:
    built = build_family("speech", OPTIONS | options, population, seed)
    assert isinstance(built, Speech)
    return built


def pitches(tasks: TaskBatch) -> list[dict[int, set[int]]]:
    """The loudest band of each label, by task, over both halves."""
    found = []
    x, y = torch.cat([tasks.support_x, tasks.query_x], 1), torch.cat([tasks.support_y, tasks.query_y], 1)
    for sounds, labels in zip(x, y, strict=True):
        bands: dict[int, set[int]] = {}
        for sound, label in zip(sounds, labels.tolist(), strict=True):
            bands.setdefault(label, set()).add(int(sound[0].mean(1).argmax()))
        found.append(bands)
    return found


def test_a_label_is_one_word_within_a_task_and_another_in_the_next(folders: Path) -> None:
    write_recordings(folders)
    built = family()
    assert built.spec == shape_of_tasks("speech", OPTIONS)
    tasks = built.sample(0, 4, stream(0))
    assert tasks.query_x.shape == (4, 20, 1, 24, 20)
    found = pitches(tasks)
    # Ten tones 200 Hz apart: a label's takes are within 3 Hz, so within two bands that touch.
    assert all(max(bands) - min(bands) <= 1 for task in found for bands in task.values())
    assert len({tuple(min(task[label]) for label in range(10)) for task in found}) == 4


def test_a_client_is_the_speaker_that_the_config_names(folders: Path) -> None:
    write_recordings(folders)
    for speaker in ("anna", "bob", "zoe"):
        built = family(test_speakers=[speaker])
        assert built.names[2] == speaker
        assert sorted(built.names) == ["anna", "bob", "zoe"]
        mine = built.clients[2].table
        assert {built.recordings[row].speaker for row in mine.flatten().tolist()} == {speaker}
        assert mine.shape == (10, 4)
    both = family(Population(1, 1, 1), test_speakers=["bob"], validation_speakers=["anna"])
    assert both.names == ("zoe", "anna", "bob")


def test_without_names_the_seed_draws_the_speakers(folders: Path) -> None:
    write_recordings(folders)
    drawn = {family(seed=seed).names for seed in range(12)}
    assert len(drawn) > 1
    assert family(seed=3).names == family(seed=3).names


def test_global_labels_are_the_words_in_training_and_on_request_in_the_test(folders: Path) -> None:
    write_recordings(folders)
    built = family(labels="global")
    assert (built.spec.new_classes, built.spec.outputs) == (True, 10)
    by_word = {label: min(bands) for label, bands in pitches(built.sample(0, 1, stream(0)))[0].items()}
    # The pitch rises with the word.
    assert sorted(by_word.values()) == [by_word[word] for word in range(10)]
    same = family(labels="global", test_labels="global")
    assert not same.spec.new_classes
    for task in pitches(same.sample(2, 3, stream(0))):
        assert all(abs(min(task[word]) - by_word[word]) <= 1 for word in range(10))
    assert any(
        any(abs(min(task[word]) - by_word[word]) > 1 for word in range(10))
        for task in pitches(built.sample(2, 3, stream(0)))
    )


def test_only_training_speakers_are_augmented_and_the_recordings_stay_the_same(folders: Path) -> None:
    write_recordings(folders)
    plain, changed = family(test_speakers=["bob"]), family(test_speakers=["bob"], augment_time=0.3)
    for client, same in ((0, False), (2, True)):
        first, second = (built.sample(client, 2, stream(1)) for built in (plain, changed))
        assert torch.equal(first.query_y, second.query_y)
        assert torch.equal(first.support_x, second.support_x) is same


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_another_partition_deals_training_recordings_alone(folders: Path, partition: str) -> None:
    write_recordings(folders, takes=12)
    natural, dealt = (
        family(test_speakers=["bob"], partition=one, alpha=5.0, ways=3) for one in ("natural", partition)
    )
    assert np.array_equal(natural.clients[2].table, dealt.clients[2].table)
    spoken = {dealt.recordings[row].speaker for row in dealt.clients[0].table.flatten().tolist()}
    assert spoken == {"anna", "zoe"}


@pytest.mark.parametrize(
    ("population", "options", "message"),
    [
        (
            POPULATION,
            {"test_speakers": ["bop"]},
            "data.test_speakers: unknown speaker 'bop': did you mean 'bob'",
        ),
        (POPULATION, {"test_speakers": ["bob", "anna"]}, "names 2, but test_clients = 1"),
        (POPULATION, {"validation_speakers": ["anna"]}, "names 1, but validation_clients = 0"),
        (
            Population(1, 1, 1),
            {"test_speakers": ["bob"], "validation_speakers": ["bob"]},
            "'bob' is named twice",
        ),
        (Population(4), {}, "clients = 4, but there are 3 speakers: set it to 3 or less"),
        (POPULATION, {"ways": 11}, "data.ways = 11, but there are 10 words"),
        (POPULATION, {"test_ways": 12}, "data.test_ways = 12, but there are 10 words"),
        (POPULATION, {"test_labels": "global"}, "needs data.labels = 'global'"),
        (
            POPULATION,
            {"shots": 3},
            r"data.shots \+ data.queries = 3 \+ 2, but .* has 4 recordings of '0'",
        ),
    ],
)
def test_what_the_recordings_cannot_serve_is_one_line_and_nothing_is_written(
    folders: Path, population: Population, options: dict[str, Any], message: str
) -> None:
    write_recordings(folders)
    with pytest.raises(ConfigError, match=message) as refusal:
        family(population, **options)
    assert "\n" not in str(refusal.value)
    assert list(folders.parent.glob("cache/**/*")) == []


def test_a_recording_that_is_no_sound_is_named_with_the_command(folders: Path) -> None:
    path = write_recordings(folders)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("recordings/3_anna_99.wav", b"RIFF....WAVE")
    with pytest.raises(
        DataError, match=r"3_anna_99\.wav is not a valid WAV.*`fedmeta data fetch speech --fol"
    ):
        family()


def test_without_the_file_the_command_that_fetches_it_is_named(folders: Path) -> None:
    assert shape_of_tasks("speech", {}) is not None
    with pytest.raises(MissingDataError, match="`fedmeta data fetch speech`"):
        family()


def test_the_digest_is_that_of_the_recordings(folders: Path) -> None:
    def digest() -> str | None:
        return data_digest("speech", OPTIONS, POPULATION, family)

    assert digest() is None
    write_recordings(folders)
    first = digest()
    write_recordings(folders, root="elsewhere/")
    assert digest() == first is not None
    write_recordings(folders, takes=5)
    assert digest() != first


def test_each_official_speaker_says_each_word_fifty_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_file(FILE)
    monkeypatch.setenv("FEDMETA_CACHE", str(tmp_path))
    built = build_family("speech", {"ways": 10}, Population(5, 0, 1), 0)
    assert isinstance(built, Speech)
    assert sorted(built.names) == ["george", "jackson", "lucas", "nicolas", "theo", "yweweler"]
    assert all(client.sizes.tolist() == [50] * 10 for client in built.clients)
    assert built.pool.shape == (3000, 1, 32, 64)
