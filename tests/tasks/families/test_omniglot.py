from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fedmeta.errors import ConfigError, DataError
from fedmeta.tasks import Population, build_family, stream
from fedmeta.tasks.families.omniglot import Omniglot, OmniglotOptions
from tests.tasks.conftest import SMALL_1, SMALL_2, real_file, write_zip

ALPHABETS = ({"Greek": 12, "Korean": 16, "Latin": 10}, {"Greek": 12, "Sanskrit": 8, "Tagalog": 6})


def bars(alphabet: str, character: int, drawer: int) -> np.ndarray:
    """A page that tells alphabet, character and drawer apart, turned any way."""
    page = np.zeros((105, 105))
    page[15 * len(alphabet) % 105 :][:4] = 1
    page[:, 5 * character : 5 * character + 4] = 1
    page[:15, -4 * drawer :] = 1
    return page


@pytest.fixture
def tiny(folders: Path) -> Path:
    write_zip(folders / SMALL_1, ALPHABETS[0], bars)
    write_zip(folders / SMALL_2, ALPHABETS[1], bars)
    return folders


def family(population: Population, **options: object) -> Omniglot:
    built = build_family("omniglot", options, population, seed=3)
    assert isinstance(built, Omniglot)
    return built


def owned_names(built: Omniglot, client: int) -> set[str]:
    return {built.characters.names[c] for c in built.owned[client]}


def alphabets_of(built: Omniglot, split: str) -> set[str]:
    clients = built.population.clients(split)  # type: ignore[arg-type]
    return {name.split("/")[0] for client in clients for name in owned_names(built, client)}


@pytest.mark.usefixtures("tiny")
class TestSplits:
    def test_test_alphabets_are_never_seen_in_training_or_validation(self) -> None:
        built = family(Population(3, 1, 2), validation_characters=0.25)
        assert alphabets_of(built, "test") == {"Sanskrit", "Tagalog"}
        assert alphabets_of(built, "train") == {"Greek", "Korean", "Latin"}
        assert alphabets_of(built, "validation") <= {"Greek", "Korean", "Latin"}

    def test_validation_characters_come_from_each_training_alphabet(self) -> None:
        built = family(Population(3, 1, 2), validation_characters=0.25)
        held = [built.characters.names[c].split("/")[0] for c in built.split["validation"]]
        # A quarter of 12, 16 and 10 (2.5 rounds to even).
        assert {name: held.count(name) for name in set(held)} == {"Greek": 3, "Korean": 4, "Latin": 2}

    def test_validation_alphabets_are_kept_out_of_training(self) -> None:
        built = family(Population(2, 1, 2), validation_alphabets=["Latin"])
        assert alphabets_of(built, "train") == {"Greek", "Korean"}
        assert alphabets_of(built, "validation") == {"Latin"}

    def test_split_by_characters_shares_alphabets_but_no_character(self) -> None:
        built = family(
            Population(2, 1, 1),
            split="characters",
            test_characters=0.25,
            validation_characters=0.25,
            partition="iid",
        )
        assert {name: len(part) for name, part in built.split.items()} == {
            "train": 26,
            "validation": 13,
            "test": 13,
        }

    @pytest.mark.parametrize("partition", ["natural", "iid", "dirichlet"])
    def test_every_character_has_exactly_one_owner(self, partition: str) -> None:
        built = family(
            Population(3, 1, 2), validation_characters=0.3, partition=partition, ways=3, alpha=5.0
        )
        owners = [c for client in range(6) for c in built.owned[client].tolist()]
        assert sorted(owners) == list(range(len(built.characters.names)))

    def test_natural_clients_own_whole_alphabets(self) -> None:
        built = family(Population(3, 0, 2), test_partition="natural")
        assert all(len({n.split("/")[0] for n in owned_names(built, c)}) == 1 for c in range(5))

    @pytest.mark.parametrize("partition", ["natural", "dirichlet"])
    def test_held_out_clients_are_dealt_alike_whatever_the_partition(self, partition: str) -> None:
        options: dict[str, Any] = {"validation_characters": 0.3, "ways": 3, "alpha": 5.0}
        built, other = (family(Population(3, 1, 2), partition=p, **options) for p in (partition, "iid"))
        assert [c.tolist() for c in built.owned[3:]] == [c.tolist() for c in other.owned[3:]]
        assert [c.tolist() for c in built.owned[:3]] != [c.tolist() for c in other.owned[:3]]
        one, same = (np.sort(np.concatenate(f.owned[:3])) for f in (built, other))
        assert np.array_equal(one, same)

    def test_held_out_clients_have_a_scheme_of_their_own(self) -> None:
        with pytest.raises(ConfigError, match=r"or set data\.test_partition to 'iid'"):
            family(Population(3, 0, 3), test_partition="natural")


@pytest.mark.usefixtures("tiny")
class TestEpisodes:
    def test_a_task_has_the_asked_shape_and_ink_between_0_and_1(self) -> None:
        built = family(Population(3, 0, 2), ways=5, shots=1, queries=2, test_queries=3)
        tasks = built.sample(0, 4, stream(0))
        assert tasks.support_x.shape == (4, 5, 1, 28, 28)
        assert tasks.query_x.shape == (4, 10, 1, 28, 28)
        assert tasks.query_y[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
        assert 0.0 <= tasks.support_x.min() < tasks.support_x.max() <= 1.0
        assert built.sample(4, 1, stream(0)).query_x.shape == (1, 15, 1, 28, 28)

    def test_rotations_are_classes_of_their_own_for_training_clients_only(self) -> None:
        built = family(Population(3, 0, 2))
        plain = family(Population(3, 0, 2), rotations=False)
        assert [len(c) for c in built.clients] == [4 * len(c) for c in built.owned[:3]] + [
            len(c) for c in built.owned[3:]
        ]
        assert [len(c) for c in plain.clients] == [len(c) for c in plain.owned]

    def test_the_four_classes_of_a_character_show_it_at_four_quarter_turns(self) -> None:
        built = family(Population(3, 0, 2))
        rows = built.clients[0].table[:4]
        upright = built.pool[rows[0]]
        for quarter, row in enumerate(rows):
            turned = np.rot90(upright.numpy(), quarter, (2, 3))
            assert np.array_equal(built.pool[row].numpy(), turned)

    def test_support_and_query_of_a_task_share_no_drawing(self) -> None:
        tasks = family(Population(3, 0, 2), shots=2, queries=2).sample(1, 20, stream(0))
        support, query = tasks.support_x.flatten(2), tasks.query_x.flatten(2)
        assert (support[:, :, None] - query[:, None]).abs().amax(-1).min() > 0

    def test_labels_are_drawn_anew_for_every_task(self) -> None:
        built = family(Population(3, 0, 2), ways=2)
        first = built.pool[built.clients[4].table[0, 0]].float() / 255
        labels = set()
        for i in range(60):
            tasks = built.sample(4, 1, stream(i))
            same = (tasks.support_x[0] - first).flatten(1).abs().amax(1) == 0
            labels |= set(tasks.support_y[0][same].tolist())
        assert labels == {0, 1}

    def test_the_same_stream_draws_the_same_tasks(self) -> None:
        one, two = (family(Population(3, 0, 2)).sample(0, 2, stream(9)) for _ in range(2))
        assert torch.equal(one.query_x, two.query_x)

    def test_global_labels_number_training_characters_at_each_rotation(self) -> None:
        options: dict[str, Any] = {"ways": 3, "queries": 2, "validation_characters": 0.25}
        built, local = (
            family(Population(3, 1, 2), labels=kind, **options) for kind in ("global", "task")
        )
        assert [one.spec.own_labels for one in (built, local)] == [False, True]
        assert [one.spec.new_classes for one in (built, local)] == [True, False]
        # 38 characters of three alphabets less 9 for validation, at four rotations.
        assert built.spec.outputs == (38 - 9) * 4
        seen: dict[int, set[int]] = {}
        for client in range(3):
            one, other = (f.sample(client, 200, stream(5, client)) for f in (built, local))
            assert torch.equal(one.query_x, other.query_x)
            drawn = built.clients[client].draw(200, (3, 1, 2), stream(5, client))
            labels = torch.cat([one.support_y.view(200, 3, 1), one.query_y.view(200, 3, 2)], 2)
            page = drawn % len(built.characters.images)
            characters = built.characters.character[page] * 4 + drawn // len(built.characters.images)
            for label, character in zip(labels.flatten().tolist(), characters.ravel(), strict=True):
                seen.setdefault(label, set()).add(int(character))
        assert all(len(characters) == 1 for characters in seen.values()), "one class, one label"
        assert len(set.union(*seen.values())) == len(seen), "one label, one class"
        assert sorted(seen) == list(range(built.spec.outputs))
        assert built.sample(5, 1, stream(0)).support_y.tolist() == [[0, 1, 2]]

    def test_support_and_query_of_lakes_tasks_are_by_two_people_within_one_alphabet(self) -> None:
        built = family(Population(3, 0, 1), ways=4, test_drawers="two", test_partition="natural")
        tasks = built.sample(3, 50, stream(0))
        pages = built.pool[:, 0].flatten(1).float() / 255
        seen = set()
        for support, query in zip(tasks.support_x.flatten(2), tasks.query_x.flatten(2), strict=True):
            names, drawers = [], []
            for half in (support, query):
                images = [int((pages == one).all(1).nonzero()[0]) for one in half]
                characters = [built.characters.character[image] for image in images]
                names.append([built.characters.names[one] for one in characters])
                # Each character's first image is by the first drawer, and so on.
                first = np.searchsorted(built.characters.character, characters)
                drawers.append({int(image - one) for image, one in zip(images, first, strict=True)})
            assert names[0] == names[1]
            assert len(set(names[0])) == 4
            assert len({name.split("/")[0] for name in names[0]}) == 1
            [[support_drawer], [query_drawer]] = map(list, drawers)
            assert support_drawer != query_drawer
            seen.add((names[0][0].split("/")[0], support_drawer, query_drawer))
        assert {alphabet for alphabet, _, _ in seen} == {"Sanskrit", "Tagalog"}
        # Three ordered pairs at least of four drawers, in each alphabet.
        assert len(seen) >= 6

    def test_training_tasks_do_not_depend_on_test_drawers(self) -> None:
        one, two = (
            family(Population(3, 0, 2), test_drawers=who, test_partition="natural").sample(
                0, 2, stream(9)
            )
            for who in ("any", "two")
        )
        assert torch.equal(one.query_x, two.query_x)


@pytest.mark.usefixtures("tiny")
class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"test_alphabets": ["Sanskrt"]}, "unknown alphabet 'Sanskrt': did you mean 'Sanskrit'"),
            ({"validation_alphabets": ["Latn"]}, "unknown alphabet 'Latn': did you mean 'Latin'"),
            ({"validation_alphabets": ["Tagalog"]}, "'Tagalog' is a test alphabet"),
            (
                {"test_ways": 7, "test_partition": "natural"},
                r"data.test_ways = 7, but test client \d has 6 classes",
            ),
            ({"ways": 65, "test_ways": 5}, r"data.ways = 65, but train client \d has \d+ classes"),
            (
                {"queries": 4},
                r"data.shots \+ data.queries = 1 \+ 4, but train client 0 has a class of 4",
            ),
            (
                {"test_drawers": "two", "test_queries": 2},
                "data.test_drawers = 'two' needs data.test_shots = 1 and data.test_queries = 1",
            ),
            (
                {"test_drawers": "two"},
                r"data.test_ways = 5, but no alphabet of test client \d has more than \d characters",
            ),
            ({"test_characters": 0.5}, "data.test_characters needs data.split = 'characters'"),
            (
                {"split": "characters", "test_alphabets": ["Latin"]},
                "data.test_alphabets needs data.split = 'alphabets'",
            ),
            (
                {"test_alphabets": ["Greek", "Korean", "Latin", "Sanskrit", "Tagalog"]},
                "leave nothing to train on",
            ),
            (
                {"split": "characters", "validation_characters": 0.9},
                "leave nothing to train on",
            ),
        ],
    )
    def test_options_that_do_not_fit_are_refused_in_one_line(
        self, options: dict[str, object], message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message) as refusal:
            family(Population(3, 0, 2), **options)
        assert "\n" not in str(refusal.value)

    def test_more_clients_than_alphabets_are_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"clients: 4 train clients .* 3 alphabets each"):
            family(Population(4, 0, 2))

    def test_validation_clients_without_characters_are_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"set data\.validation_alphabets or"):
            family(Population(3, 1, 2))


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("rotation", [0.0, 10.0])
def test_tasks_have_images_of_the_size_asked_for(rotation: float) -> None:
    built = family(Population(2, 0, 1), size=20, augment_rotation=rotation)
    tasks = built.sample(0, 2, stream(0, "t"))
    assert built.spec.input_shape == tasks.query_x.shape[2:] == (1, 20, 20)
    assert 0.2 < float(tasks.query_x.max()) <= 1


def test_a_corrupt_file_is_to_be_replaced_in_place(tiny: Path) -> None:
    (tiny / SMALL_2).write_bytes(b"PK")
    with pytest.raises(DataError, match="corrupt") as refusal:
        family(Population(3, 0, 2))
    assert f"`fedmeta data fetch omniglot --folder {tiny}`" in str(refusal.value)


def test_lists_are_taken_for_alphabets_where_types_are_strict() -> None:
    class Strict(OmniglotOptions, strict=True):
        pass

    alphabets = {"test_alphabets": ["Latin"], "validation_alphabets": ["Greek", "Korean"]}
    options = Strict.model_validate(alphabets)
    assert options.test_alphabets == ("Latin",)
    assert options.validation_alphabets == ("Greek", "Korean")
    with pytest.raises(ValidationError):
        Strict.model_validate({"ways": "5"})


def test_missing_data_names_the_folders_searched_and_how_to_fetch_it(folders: Path) -> None:
    with pytest.raises(DataError, match="`fedmeta data fetch omniglot`") as refusal:
        family(Population(3, 0, 2))
    assert str(folders) in str(refusal.value)
    with pytest.raises(DataError, match="`fedmeta data fetch omniglot-full`"):
        family(Population(3, 0, 2), source="full")


def test_the_full_sets_test_on_the_official_evaluation_set(folders: Path) -> None:
    write_zip(folders / "omniglot/images_background.zip", ALPHABETS[0], bars)
    write_zip(folders / "omniglot/images_evaluation.zip", {"Angelic": 7, "Tibetan": 9}, bars)
    built = family(Population(3, 0, 2), source="full")
    assert alphabets_of(built, "test") == {"Angelic", "Tibetan"}
    assert alphabets_of(built, "train") == {"Greek", "Korean", "Latin"}


def test_the_real_small_sets_serve_six_training_and_two_test_alphabets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_file(SMALL_1)
    monkeypatch.setenv("FEDMETA_CACHE", str(tmp_path))
    built = family(Population(6, 2, 2), validation_characters=0.1, queries=1, test_queries=15)
    assert alphabets_of(built, "test") == {"Sanskrit", "Tagalog"}
    assert built.sample(9, 3, stream(0)).query_x.shape == (3, 75, 1, 28, 28)
