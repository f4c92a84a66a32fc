import hashlib
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmeta.errors import ConfigError, DataError
from fedmeta.tasks import Population, build_family, stream
from fedmeta.tasks.shakespeare import CHARACTERS, OTHER, VOCABULARY, Shakespeare, encode, place_windows
from tests.tasks.conftest import real_file

PLAYS = "tinyshakespeare/input.txt"


@pytest.fixture
def tiny(folders: Path) -> Path:
    """Speakers A to F; what speaker k says is a run of consecutive letters, so order can be seen."""
    path = folders / PLAYS
    path.parent.mkdir()
    blocks = []
    for half in range(2):
        for place, name in enumerate("ABCDEF"):
            words = "".join(CHARACTERS[1 + (half * 40 + i) % 90] for i in range(40 - place))
            blocks.append(f"{name}:\n{words}")
    path.write_text("\n\n".join(blocks) + "\n")
    return path


def family(population: Population, **options: object) -> Shakespeare:
    values = {"length": 5, "shots": 2, "queries": 3, "verify": False} | options
    built = build_family("shakespeare", values, population, seed=2)
    assert isinstance(built, Shakespeare)
    return built


def test_characters_become_tokens_of_a_fixed_alphabet() -> None:
    assert encode("\n a~").tolist() == [0, 1, 66, 95]
    assert encode("é\t").tolist() == [OTHER, OTHER]
    assert [CHARACTERS[t] for t in encode("To be, or not\n")] == list("To be, or not\n")
    assert VOCABULARY == 97


@pytest.mark.usefixtures("tiny")
class TestTasks:
    def test_targets_are_the_characters_that_come_next(self) -> None:
        tasks = family(Population(2, 1, 1)).sample(0, 6, stream(0))
        assert tasks.support_x.shape == tasks.support_y.shape == (6, 2, 5)
        assert tasks.query_x.shape == tasks.query_y.shape == (6, 3, 5)
        assert tasks.support_x.dtype == torch.int64
        assert torch.equal(tasks.support_x[:, :, 1:], tasks.support_y[:, :, :-1])
        assert torch.equal(tasks.query_x[:, :, 1:], tasks.query_y[:, :, :-1])

    def test_support_comes_before_query_in_the_speakers_text(self) -> None:
        built = family(Population(2, 1, 1))
        for client in range(4):
            text = "".join(chr(32 + t) for t in built.texts[client].tolist())
            half = len(text) // 2
            tasks = built.sample(client, 10, stream(client))
            for windows, part in ((tasks.support_x, text[:half]), (tasks.query_x, text[half:])):
                for window in windows.flatten(0, 1).tolist():
                    assert "".join(chr(32 + t) for t in window) in part

    def test_held_out_speakers_may_have_more_query_windows(self) -> None:
        built = family(Population(2, 1, 1), test_queries=5)
        assert [built.sample(c, 1, stream(0)).query_x.shape[1] for c in range(4)] == [3, 3, 5, 5]

    def test_clients_are_the_speakers_with_most_text_one_each(self) -> None:
        built = family(Population(2, 1, 1))
        assert sorted(built.speakers) == ["A", "B", "C", "D"]
        assert built.spec.vocabulary == built.spec.outputs == VOCABULARY

    def test_the_same_stream_draws_the_same_tasks(self) -> None:
        one, two = (family(Population(4)).sample(1, 2, stream(5)) for _ in range(2))
        assert torch.equal(one.query_y, two.query_y)

    def test_more_clients_than_speakers_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="7 clients, but the plays have 6 speakers"):
            family(Population(7))

    @pytest.mark.parametrize("key", ["shots", "queries"])
    def test_a_speaker_who_says_too_little_is_refused(self, key: str) -> None:
        message = rf"data.{key} = 20 windows of 6 characters need 120, but speaker '.' has \d+"
        with pytest.raises(ConfigError, match=message):
            family(Population(2), **{key: 20})


@pytest.mark.usefixtures("tiny")
class TestPartition:
    """The tiny plays have two speeches of each of six speakers: four train, two are held out."""

    @staticmethod
    def speeches(built: Shakespeare, clients: range) -> list[list[tuple[int, ...]]]:
        newline = 0
        found = []
        for client in clients:
            text = built.texts[client]
            parts = np.split(text, np.flatnonzero(text == newline))
            found.append([tuple(part[part != newline].tolist()) for part in parts])
        return found

    @pytest.mark.parametrize("partition", ["iid", "dirichlet"])
    def test_speeches_move_between_training_clients_alone_and_stay_whole(self, partition: str) -> None:
        population = Population(4, 1, 1)
        options = {"shots": 1, "queries": 1, "alpha": 50.0}
        built, natural = (family(population, partition=p, **options) for p in (partition, "natural"))
        for client in (4, 5):
            assert np.array_equal(built.texts[client], natural.texts[client])
        dealt, own = (self.speeches(f, population.clients("train")) for f in (built, natural))
        assert sorted(chain.from_iterable(dealt)) == sorted(chain.from_iterable(own))
        assert dealt != own

    def test_iid_deals_as_many_speeches_to_each_and_mixes_speakers(self) -> None:
        population = Population(4, 1, 1)
        mixed = 0
        for seed in range(5):
            values = {"length": 5, "shots": 2, "queries": 2, "verify": False}
            built, natural = (
                build_family("shakespeare", values | {"partition": p}, population, seed)
                for p in ("iid", "natural")
            )
            assert isinstance(built, Shakespeare)
            assert isinstance(natural, Shakespeare)
            dealt, own = (self.speeches(f, range(4)) for f in (built, natural))
            assert [len(speeches) for speeches in dealt] == [2] * 4
            speaker = {speech: c for c in range(4) for speech in own[c]}
            mixed += sum(len({speaker[s] for s in speeches}) == 2 for speeches in dealt)
        # The second of a client's two speeches is by the first one's speaker once in seven: 17 of 20.
        assert mixed >= 11

    def test_a_client_that_is_dealt_too_little_is_named(self) -> None:
        with pytest.raises(ConfigError, match=r"need 96, but client \d has \d+ for them"):
            family(Population(4, 1, 1), partition="iid", shots=16, queries=1, support_fraction=0.9)


def test_windows_never_overlap_and_reach_all_of_the_text() -> None:
    starts = place_windows(30, 6, (2000, 4), np.random.default_rng(0))
    assert (np.diff(starts, axis=1) >= 6).all()
    assert starts.min() == 0
    assert starts.max() == 24
    exact = place_windows(24, 6, (3, 4), np.random.default_rng(0))
    assert exact.tolist() == [[0, 6, 12, 18]] * 3


def test_a_file_that_is_not_the_official_one_is_named_with_how_to_fetch_it(tiny: Path) -> None:
    with pytest.raises(DataError, match="`fedmeta data fetch shakespeare --folder") as refusal:
        family(Population(2), verify=True)
    assert str(tiny) in str(refusal.value)
    assert f"--folder {tiny.parents[1]}`" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"no speaker here", b"\xff\xfe\xfa"])
def test_a_file_that_is_no_play_is_refused(tiny: Path, content: bytes) -> None:
    tiny.write_bytes(content)
    with pytest.raises(DataError, match=r"input\.txt (holds no speech|is corrupt)") as refusal:
        family(Population(2))
    assert "data fetch" not in str(refusal.value), "fetching would overwrite a text of one's own"


def test_a_truncated_official_file_is_refused(folders: Path) -> None:
    whole = real_file(PLAYS).read_bytes()
    (folders / PLAYS).parent.mkdir()
    (folders / PLAYS).write_bytes(whole[:-1000])
    with pytest.raises(DataError, match="corrupt, truncated or not the official file"):
        family(Population(2), verify=True)


def test_the_official_plays_serve_ninety_nine_speakers_with_two_thousand_characters() -> None:
    real_file(PLAYS)
    built = family(Population(79, 10, 10), verify=True, length=80, shots=4, queries=4)
    # Its README counts 99 speakers with 2,000 characters or more.
    assert min(len(text) for text in built.texts) >= 1990
    assert max(len(text) for text in built.texts) > 30_000
    assert not any((text == OTHER).any() for text in built.texts)
    assert "GLOUCESTER" in built.speakers


def test_natural_tasks_of_the_official_plays_are_the_ones_of_earlier_versions() -> None:
    """The digest was computed before `partition` existed."""
    real_file(PLAYS)
    built, digest = family(Population(60, 10, 15), verify=True, length=30, shots=8), hashlib.sha256()
    for client in range(85):
        tasks = built.sample(client, 1, stream(0, "train", 7, client))
        digest.update(tasks.query_y.numpy().astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "f106f395412d7e9d"
