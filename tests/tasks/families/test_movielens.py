"""MovieLens: users, their ratings, and tables that are damaged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmeta.errors import ConfigError, DataError, MissingDataError
from fedmeta.tasks import Population, build_family, shape_of_tasks, stream
from fedmeta.tasks.data.movielens_files import GENRES, OCCUPATIONS, read_movielens
from fedmeta.tasks.families.movielens import MovieLens
from tests.tasks.conftest import real_file

USERS, FILMS, EACH = 12, 30, 14
"""User u rated films u + 1 to u + EACH; users 10 and 11 only the first five of them."""
POPULATION = Population(4, 2, 3)

Tables = dict[str, list[str]]


def tables() -> Tables:
    """The tables of a tiny set; user u gave film f (u + f) % 5 + 1 stars, later films first."""
    user = [
        f"{u + 1}\t{20 + u}\t{'MF'[u % 2]}\t{OCCUPATIONS[u]}\t0{u}" for u in range(USERS)
    ]  # zip codes are not read
    film = [
        f'{f + 1}\tThe "{f}"\t{1970 + f if f else "unkonwn"}\t{GENRES[f % 19]} {GENRES[(f + 5) % 19]}'
        for f in range(FILMS)
    ]
    rating = [
        f"{u + 1}\t{f + 1}\t{(u + f) % 5 + 1}\t{1000 - f}"
        for f in range(FILMS)
        for u in range(USERS)
        if u <= f < u + (EACH if u < 10 else 5)
    ]
    return {
        "user": ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token", *user],
        "item": [
            "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
            *film,
        ],
        "inter": ["user_id:token\titem_id:token\trating:float\ttimestamp:float", *rating],
    }


def write(folder: Path, lines: Tables | None = None) -> Path:
    """Write the tables, and return their folder."""
    (folder / "movielens").mkdir(exist_ok=True)
    for part, rows in (lines or tables()).items():
        (folder / "movielens" / f"ml-100k.{part}").write_text("\n".join(rows) + "\n")
    return folder / "movielens"


def family(population: Population = POPULATION, seed: int = 0, **options: Any) -> MovieLens:
    built = build_family("movielens", {"shots": 6, "queries": 4} | options, population, seed)
    assert isinstance(built, MovieLens)
    return built


def test_a_client_is_a_user_with_enough_ratings_and_no_two_share_one(folders: Path) -> None:
    write(folders)
    built = family(Population(5, 2, 3))
    users = [set(built.data.user[history].tolist()) for history in built.histories]
    assert sorted(user for of in users for user in of) == list(range(10))
    assert all(len(history) == EACH for history in built.histories)


def test_users_depend_on_the_seed_and_test_users_not_on_the_number_of_others(folders: Path) -> None:
    write(folders)

    def users(train: int, seed: int) -> list[int]:
        population = Population(train, 0, 3)
        histories = family(population, seed).histories
        return [int(family(population, seed).data.user[history[0]]) for history in histories]

    assert users(7, 0)[-3:] == users(4, 0)[-3:]
    assert users(7, 0) == users(7, 0) != users(7, 1)


@pytest.mark.parametrize("order", ["random", "time"])
def test_a_task_has_different_ratings_of_one_user(folders: Path, order: str) -> None:
    write(folders)
    built = family(order=order, test_shots=3, test_queries=7)
    for client in range(9):
        support, query = built.draw(client, 50, stream(0, client))
        assert support.shape == (50, 6 if client < 4 else 3)
        assert query.shape == (50, 4 if client < 4 else 7)
        assert set(np.concatenate([support, query], 1).flatten()) <= set(built.histories[client])
        for row in np.concatenate([support, query], 1):
            assert len({*row}) == 10
        # Over 50 tasks, every rating that may be drawn is.
        kept = 6 if client < 4 else 3
        assert len(np.unique(support)) == (EACH if order == "random" else kept)
        assert len(np.unique(query)) == (EACH if order == "random" else EACH - kept)


def test_in_the_order_of_time_the_support_set_is_the_users_first_ratings(folders: Path) -> None:
    write(folders)
    built = family(order="time")
    support, query = built.draw(0, 20, stream(0, "time"))
    film, user = built.data.film[support[0]], int(built.data.user[support[0, 0]])
    # Later films were rated first.
    assert film.tolist() == [user + EACH - 1 - place for place in range(6)]
    assert (support == support[0]).all()
    assert built.data.time[query].min() > built.data.time[support].max()


def test_inputs_are_the_films_and_the_users_and_targets_are_centred(folders: Path) -> None:
    write(folders)
    built = family()
    places, _ = built.draw(1, 3, stream(1))
    batch = built.sample(1, 3, stream(1))
    assert batch.support_x.shape == (3, 6, 43)
    assert batch.support_x.dtype == batch.support_y.dtype == torch.float32
    for t in range(3):
        for b in range(6):
            u, f = (int(rows[places[t, b]]) for rows in (built.data.user, built.data.film))
            x = batch.support_x[t, b].tolist()
            genres = {GENRES[f % 19], GENRES[(f + 5) % 19]}
            assert x[:19] == [float(genre in genres) for genre in GENRES]
            assert x[19] == pytest.approx((1970 + f - 1990) / 14 if f else 0.0)
            assert x[20:41] == [float(place == u) for place in range(21)]
            assert x[41] == u % 2
            assert x[42] == pytest.approx((20 + u - 34) / 12)
            assert batch.support_y[t, b].tolist() == [(u + f) % 5 + 1 - 3.5]


def test_films_have_columns_of_their_own_on_request(folders: Path) -> None:
    write(folders)
    built, plain = family(film_ids=True), family()
    _, places = built.draw(2, 2, stream(2))
    x = built.sample(2, 2, stream(2)).query_x
    torch.testing.assert_close(x[..., :43], plain.sample(2, 2, stream(2)).query_x)
    assert (x[..., 43:].sum(2) == 1).all()
    assert x[..., 43:].argmax(2).tolist() == built.data.film[places].tolist()


@pytest.mark.parametrize(("film_ids", "columns"), [(False, 43), (True, 1725)])
def test_the_shape_is_declared_without_the_data(folders: Path, film_ids: bool, columns: int) -> None:
    told = shape_of_tasks("movielens", {"film_ids": film_ids})
    write(folders)
    assert told == family(film_ids=film_ids).spec
    assert told is not None
    assert (told.objective, told.input_shape, told.outputs) == ("ratings", (columns,), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "clients = 11, but 10 users have the 10 ratings of a task: set clients to 10 or less"),
        ({"test_shots": 30}, "clients = 11, but 0 users have the 34 ratings of a task"),
    ],
)
def test_more_clients_than_users_are_refused(
    folders: Path, options: dict[str, Any], message: str
) -> None:
    write(folders)
    with pytest.raises(ConfigError) as raised:
        family(Population(8, 1, 2), **options)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("part", "line", "text", "message"),
    [
        ("user", 0, "user_id:token\tage:token", "its first line does not name gender"),
        ("user", 1, "1\t20\tM", "line 2 has 3 columns, not 5"),
        ("user", 1, "1\t20\tM\tpilot\t0", "an occupation of 'pilot'"),
        ("user", 1, "1\t20\tX\tartist\t0", "a gender of 'X'"),
        ("user", 1, "1\tnan\tM\tartist\t0", "an age of 'nan'"),
        ("item", 1, "1\tX\t1990\tAction Noir", "a genre of 'Noir'"),
        ("inter", 1, "99\t1\t3\t0", "a rating by user '99', who is not in ml-100k.user"),
        ("inter", 1, "1\t99\t3\t0", "a rating of film '99', which is not in ml-100k.item"),
        ("inter", 1, "1\t1\t6\t0", "a rating of '6', not 1 to 5"),
        ("inter", 1, "1\t1\t3\t-1", "a time of '-1'"),
    ],
)
def test_a_damaged_table_is_refused_with_the_way_to_fetch_it(
    folders: Path, part: str, line: int, text: str, message: str
) -> None:
    lines = tables()
    lines[part][line] = text
    path = write(folders, lines) / f"ml-100k.{part}"
    with pytest.raises(DataError) as raised:
        family()
    assert f"{path} is corrupt or truncated" in str(raised.value)
    assert message in str(raised.value)
    assert "fedmeta data fetch movielens" in str(raised.value)


@pytest.mark.parametrize("part", ["user", "item", "inter"])
def test_a_table_that_is_empty_too_long_or_no_text_is_refused(folders: Path, part: str) -> None:
    path = write(folders) / f"ml-100k.{part}"
    header = tables()[part][0]
    more = [f"{f}\tX\t1990\tDrama" for f in range(1683)]
    cases = [
        (b"", "its first line does not name"),
        (header.encode() + b"\n", "it has no rows"),
        (header.encode() + b"\n\xff\n", "codec can't decode"),
        (b"x" * ((1 << 23) + 1), "Larger than 8 MiB"),
        *([("\n".join([header, *more]).encode(), "1683 films, not 1682")] if part == "item" else []),
    ]
    for content, message in cases:
        path.write_bytes(content)
        with pytest.raises(DataError, match=message) as raised:
            family()
        assert str(path) in str(raised.value)


def test_without_the_files_it_is_said_how_to_get_them(folders: Path) -> None:
    with pytest.raises(MissingDataError, match="`fedmeta data fetch movielens`"):
        family()
    (write(folders) / "ml-100k.item").unlink()
    with pytest.raises(MissingDataError, match=r"ml-100k\.item is not in .*fetch movielens"):
        family()


def test_the_real_tables_have_their_published_sizes() -> None:
    real_file("movielens/ml-100k.inter")
    data = read_movielens()
    assert data.users.shape == (943, 23)
    assert data.films.shape == (1682, 20)
    # Counts of the README of MovieLens-100k, and of its u.genre, u.occupation and u.data.
    assert np.bincount(data.stars).tolist() == [0, 6110, 11370, 27145, 34174, 21201]
    assert np.bincount(data.user).min() == 20
    assert data.users[:, -2].sum() == 273
    assert dict(zip(GENRES, data.films.sum(0).astype(int).tolist(), strict=False))["Drama"] == 725
