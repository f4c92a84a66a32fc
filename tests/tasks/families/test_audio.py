"""A user's own sounds: as log-mel spectrograms, each of its client and class."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fedmeta.errors import DataError, FedmetaError
from fedmeta.tasks import Population, build_family, data_digest, shape_of_tasks, stream
from fedmeta.tasks.data.check import check
from fedmeta.tasks.families.audio import Audio
from fedmeta.tasks.file_inputs import Asked
from tests.tasks.own.sounds import write

CLASSES = ["eins", "zwei", "fünf"]
OPTIONS: dict[str, Any] = {
    "path": "own",
    "ways": 3,
    "shots": 1,
    "queries": 2,
    "rate": 8000,
    "seconds": 0.2,
    "mels": 24,
}


def family(population: Population = Population(2, 0, 1), **options: Any) -> Audio:  # noqa: B008
    built = build_family("audio", OPTIONS | options, population, 0)
    assert isinstance(built, Audio)
    return built


def test_a_class_is_known_by_its_pitch_and_adapt_reads_the_same(here: Path) -> None:
    write(here / "own", ["anna", "bob", "zoë"], CLASSES)
    built = family()
    assert built.spec == shape_of_tasks("audio", OPTIONS)
    tasks = built.sample(0, 6, stream(0))
    assert tasks.query_x.shape == (6, 6, 1, 24, 20)
    assert float(tasks.query_x.max()) == 1.0
    for t in range(6):
        loudest = {}
        for x, y in zip(tasks.query_x[t], tasks.query_y[t], strict=True):
            loudest.setdefault(int(y), set()).add(int(x[0].mean(1).argmax()))
        assert len({max(bands) for bands in loudest.values()}) == 3
        assert all(max(bands) - min(bands) <= 1 for bands in loudest.values())
    read = Audio.read_files(built.options, built.listing.files, Asked())  # type: ignore[arg-type]
    assert torch.equal(read.x, built.pool.float().div(255))


def test_the_digest_covers_the_bytes(here: Path) -> None:
    write(here / "own", ["anna", "bob", "zoë"], CLASSES)
    first = data_digest("audio", OPTIONS, Population(3), family)
    path = here / "own" / "bob" / "eins" / "2.wav"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert data_digest("audio", OPTIONS, Population(3), family) not in (first, None)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (b"", {}, r"anna/eins/0\.wav is empty$"),
        (b"RIFF....WAVE", {}, r"anna/eins/0\.wav is not a valid WAV or FLAC file"),
        (None, {"queries": 3}, "has 3 sounds of"),
        (None, {"seconds": 0.0}, r"data\.seconds"),
        (None, {"rate": 100}, r"data\.rate"),
        (None, {"path": "own/anna/eins"}, "has 3 sounds but no folders"),
        (None, {"skip": ["anna", "bob"]}, "set clients to 1"),
    ],
)
def test_unusable_input_is_one_line_and_nothing_is_written(
    change: bytes | None, options: dict[str, Any], message: str, here: Path, tmp_path: Path
) -> None:
    write(here / "own", ["anna", "bob", "zoë"], CLASSES)
    if change is not None:
        (here / "own" / "anna" / "eins" / "0.wav").write_bytes(change)
    with pytest.raises(FedmetaError, match=message) as caught:
        family(**options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("files", "end"), [(1, r"0\.wav is empty$"), (3, r"0\.wav is empty \(and 2 more files\)$")]
)
def test_a_check_of_broken_sounds_names_one_and_counts_the_others(
    files: int, end: str, here: Path
) -> None:
    (here / "broken" / "eins").mkdir(parents=True)
    for number in range(files):
        (here / "broken" / "eins" / f"{number}.wav").touch()
    with pytest.raises(DataError, match=end):
        check(here / "broken")
