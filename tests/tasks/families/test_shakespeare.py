import hashlib
import unicodedata
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmeta.errors import ConfigError, DataError
from fedmeta.tasks import Population, build_family, stream
from fedmeta.tasks.families.shakespeare import Shakespeare, lookalikes, read_play
from fedmeta.tasks.text_windows import CHARACTERS, OTHER, VOCABULARY, encode, place_windows
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
    def test_a_speaker_with_too_little_text_is_refused(self, key: str) -> None:
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

    def test_a_client_with_too_little_data_is_named(self) -> None:
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
def test_a_file_that_is_not_a_play_is_refused(tiny: Path, content: bytes) -> None:
    tiny.write_bytes(content)
    with pytest.raises(DataError, match=r"input\.txt (has no speech|is corrupt)") as refusal:
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


CLEAN = "\n\n".join(
    [
        "Prue Hall:\nWho's there? Ere long,\nthe caf\u00e9 shuts.",
        "ZOË:\nNone but I; come in.",
        "Prue Hall:\nThen we shall sit, and talk of ships.",
        "Old Man:\nI hear you both.",
    ]
)


def sprinkled(character: str) -> str:
    """`CLEAN` with the character after each fifth letter, in names too, and at both ends."""
    parts = [CLEAN[i : i + 5] for i in range(0, len(CLEAN), 5)]
    return character + character.join(parts) + character


DISGUISES: dict[str, bytes] = {
    "UTF-8 mark": b"\xef\xbb\xbf" + CLEAN.encode(),
    "UTF-16 LE mark": b"\xff\xfe" + CLEAN.encode("utf-16-le"),
    "UTF-16 BE mark": b"\xfe\xff" + CLEAN.encode("utf-16-be"),
    "UTF-32 LE mark": b"\xff\xfe\0\0" + CLEAN.encode("utf-32-le"),
    "UTF-16 LE without a mark": CLEAN.encode("utf-16-le"),
    "UTF-16 BE without a mark": CLEAN.encode("utf-16-be"),
    "Windows-1252": CLEAN.encode("cp1252"),
    "Latin-1": CLEAN.encode("latin-1"),
    "CR LF": CLEAN.replace("\n", "\r\n").encode(),
    "CR": CLEAN.replace("\n", "\r").encode(),
    "CR CR LF": CLEAN.replace("\n", "\r\r\n").encode(),
    "NEL": CLEAN.replace("\n", "\x85").encode(),
    "LS": CLEAN.replace("\n", "\u2028").encode(),
    "PS": CLEAN.replace("\n", "\u2029").encode(),
    "mixed ends": CLEAN.replace("\n", "\r\n", 3).replace(":\n", ":\u2028").encode(),
    "NFD": unicodedata.normalize("NFD", CLEAN).encode(),
    "no-break spaces": CLEAN.replace(" ", "\xa0").encode(),
    "other spaces": CLEAN.replace("e ", "e\u2009").replace("l ", "l\u3000").encode(),
    "tabs in names": CLEAN.replace("Prue Hall", "Prue\tHall", 1).encode(),
    "double spaces in names": CLEAN.replace("Prue Hall", "Prue   Hall", 1).encode(),
    "spaces about names": CLEAN.replace("Prue Hall:", "  Prue Hall : ", 1).encode(),
    "spaces at ends of lines": CLEAN.replace("\n", " \t\n").encode(),
} | {
    f"U+{ord(character):04X}": sprinkled(character).encode()
    for character in "\u200b\u200c\u200d\u2060\ufeff\xad\u200e\u200f\u202a\u202e\u2066\u2069\u061c"
    "\u034f\u180e\ufe0f\U000e0100\U000e0041\u3164\x0c\x07\x7f"
}


@pytest.mark.parametrize("kind", sorted(DISGUISES))
def test_invisible_characters_change_nothing(kind: str, tmp_path: Path) -> None:
    (tmp_path / "play.txt").write_bytes(DISGUISES[kind])
    play = read_play(tmp_path / "play.txt")
    assert play.said == {
        "Prue Hall": [
            "Who's there? Ere long,\nthe café shuts.",
            "Then we shall sit, and talk of ships.",
        ],
        "ZOË": ["None but I; come in."],
        "Old Man": ["I hear you both."],
    }
    assert not play.left_out


def test_speeches_keep_their_visible_text(tmp_path: Path) -> None:
    text = "A:\nOne.  Two.\n    Three\u2014four.\n\nExit A\n\n:\nwords of nobody"
    (tmp_path / "play.txt").write_text(text, encoding="utf-8")
    play = read_play(tmp_path / "play.txt")
    assert play.said == {"A": ["One.  Two.\n    Three\u2014four."]}
    assert play.left_out == ("Exit A", ":\nwords of nobody")


def test_the_official_text_in_another_encoding_is_the_official_text(tmp_path: Path) -> None:
    plain = real_file(PLAYS).read_text()
    official = read_play(real_file(PLAYS))
    assert len(official.said) == 299
    assert {"LADY CAPULET", "LADY  CAPULET"} <= set(official.said)
    for dress in (
        b"\xef\xbb\xbf" + plain.replace("\n", "\r\n").encode(),
        plain.replace(" of ", "\u00a0of\u200b ").encode("utf-16"),
        plain.replace("the", "t\u00adhe").replace("\n", "\r").encode(),
    ):
        (tmp_path / "play.txt").write_bytes(dress)
        play = read_play(tmp_path / "play.txt")
        assert play.said == official.said
        assert play.file.odd


def test_oddities_of_a_text_are_logged(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    family(Population(2))
    assert not caplog.records
    tiny.write_bytes(b"\xef\xbb\xbf" + tiny.read_bytes().replace(b"\n", b"\r\n"))
    assert sorted(family(Population(6)).speakers) == list("ABCDEF")
    family(Population(5))
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{tiny}: begins with a byte-order mark; lines end in ")
    assert "CR LF" in record.getMessage()


def test_look_alike_names_are_found() -> None:
    cyrillic = "\u0422\u041e\u041c"  # T, O and M
    names = ["First Citizen", "FIRST CITIZEN", "TOM", "Tim", cyrillic, "First Citizen.", "Second"]
    assert lookalikes(names) == [("First Citizen", "FIRST CITIZEN", "First Citizen."), ("TOM", cyrillic)]
    assert lookalikes(["Anne", "Ann", "Bob 1", "Bob 2"]) == []
