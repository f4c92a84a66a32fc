"""Reads the tables of MovieLens: users, films and ratings, as recbole packs them."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmeta.errors import DataError
from fedmeta.files import open_file
from fedmeta.tasks.data.sources import how_to_fetch, locate, sha256_of, source_named

SOURCE = "movielens"
MOST_BYTES = 1 << 23
"""Bytes of a table; the largest official one has 2 million."""
FILMS = 1682
"""Films at most, so that the shape of tasks is known without the data."""

GENRES = (
    *("Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller"),
    *("War", "Western", "unknown"),
)
OCCUPATIONS = (
    *("administrator", "artist", "doctor", "educator", "engineer", "entertainment", "executive"),
    *("healthcare", "homemaker", "lawyer", "librarian", "marketing", "none", "other", "programmer"),
    *("retired", "salesman", "scientist", "student", "technician", "writer"),
)
GENDERS = ("M", "F")
YEAR, AGE = (1990.0, 14.0), (34.0, 12.0)
"""Means and deviations, rounded, of films' years and users' ages."""
FILM_FEATURES = len(GENRES) + 1
USER_FEATURES = len(OCCUPATIONS) + 2

_USERS, _FILMS, _RATINGS = "ml-100k.user", "ml-100k.item", "ml-100k.inter"
_COLUMNS = {
    _USERS: ("user_id", "age", "gender", "occupation"),
    _FILMS: ("item_id", "release_year", "class"),
    _RATINGS: ("user_id", "item_id", "rating", "timestamp"),
}


@dataclass(frozen=True)
class RatingTable:
    """Ratings of films by users.

    Attributes:
        users: ``[U, 23]``: occupation (one-hot), gender (1: F), age (standardised).
        films: ``[M, 20]``: genres (0 or 1 each), year (standardised; 0 where it is unknown).
        user: ``[N]``, the row of each rating's user.
        film: ``[N]``, the row of its film.
        stars: ``[N]``, 1 to 5.
        time: ``[N]``, in seconds.
    """

    users: NDArray[np.float32]
    films: NDArray[np.float32]
    user: NDArray[np.int64]
    film: NDArray[np.int64]
    stars: NDArray[np.int64]
    time: NDArray[np.int64]


def locate_movielens() -> list[Path]:
    """Return the paths of ratings, films and users; `MissingDataError` if one is not here."""
    return [locate(file.path, SOURCE) for file in source_named(SOURCE).files]


def read_movielens() -> RatingTable:
    """Return users, films and ratings.

    Raises:
        DataError: If a file is missing or corrupt.
    """
    paths = locate_movielens()
    return _parsed(tuple((path, sha256_of(path, MOST_BYTES)) for path in paths))


@lru_cache(maxsize=1)
def _parsed(files: tuple[tuple[Path, str], ...]) -> RatingTable:
    tables = {file.name: file for file, _ in files}
    try:
        path = tables[_USERS]
        users = {number: _user(*row) for number, *row in _rows(path)}
        path = tables[_FILMS]
        films = {number: _film(*row) for number, *row in _rows(path)}
        if len(films) > FILMS:
            raise ValueError(f"{len(films)} films, not {FILMS} or fewer")
        path = tables[_RATINGS]
        columns = _ratings(path, list(users), list(films))
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise DataError(
            f"{path} is corrupt or truncated ({error}): {how_to_fetch(SOURCE, corrupt=path)}"
        ) from None
    return RatingTable(_array(users), _array(films), *columns)


def _array(rows: dict[str, list[float]]) -> NDArray[np.float32]:
    return np.array(list(rows.values()), dtype=np.float32)


def _rows(path: Path) -> Iterator[list[str]]:
    """Yield the columns that are read of each row; names are followed by a colon and a type."""
    with open_file(path, MOST_BYTES) as file:
        text = file.read().decode("utf-8")
    table = csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
    names = [name.split(":")[0] for name in next(table, [])]
    missing = [name for name in _COLUMNS[path.name] if name not in names]
    if missing:
        raise ValueError(f"its first line does not name {missing[0]}")
    places = [names.index(name) for name in _COLUMNS[path.name]]
    line = 1
    for line, row in enumerate(table, 2):
        if len(row) != len(names):
            raise ValueError(f"line {line} has {len(row)} columns, not {len(names)}")
        yield [row[place] for place in places]
    if line == 1:
        raise ValueError("it has no rows")


def _user(age: str, gender: str, occupation: str) -> list[float]:
    mean, deviation = AGE
    return [
        *_one_hot((occupation,), OCCUPATIONS, "an occupation"),
        _one_hot((gender,), GENDERS, "a gender")[1],
        (_number(age, "an age") - mean) / deviation,
    ]


def _film(year: str, genres: str) -> list[float]:
    mean, deviation = YEAR
    # Two of the official films have no year.
    known = year.isascii() and year.isdigit() and len(year) == 4
    return [
        *_one_hot(genres.split(), GENRES, "a genre"),
        (int(year) - mean) / deviation if known else 0.0,
    ]


def _ratings(path: Path, users: list[str], films: list[str]) -> NDArray[np.int64]:
    """Return rows of users and films, stars and times, ``[4, N]``."""
    user_rows, film_rows = ({number: row for row, number in enumerate(n)} for n in (users, films))
    found = []
    for user, film, stars, time in _rows(path):
        if user not in user_rows:
            raise ValueError(f"a rating by user {user!r}, who is not in {_USERS}")
        if film not in film_rows:
            raise ValueError(f"a rating of film {film!r}, which is not in {_FILMS}")
        if stars not in ("1", "2", "3", "4", "5"):
            raise ValueError(f"a rating of {stars!r}, not 1 to 5")
        found.append((user_rows[user], film_rows[film], int(stars), _number(time, "a time")))
    return np.array(found, dtype=np.int64).T


def _one_hot(values: Sequence[str], known: tuple[str, ...], what: str) -> list[float]:
    odd = [value for value in values if value not in known]
    if odd:
        raise ValueError(f"{what} of {odd[0]!r}")
    return [float(value in values) for value in known]


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise ValueError(f"{what} of {text!r}")
    return int(text)
