"""A user's own texts: a file or a folder for each client."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fedmeta.errors import FedmetaError
from fedmeta.tasks import Population, build_family, data_digest, shape_of_tasks, stream
from fedmeta.tasks.families.text import Text

OPTIONS: dict[str, Any] = {"path": "own", "length": 5, "shots": 2, "queries": 1}


def family(population: Population = Population(2, 0, 1), **options: Any) -> Text:  # noqa: B008
    built = build_family("text", OPTIONS | options, population, 0)
    assert isinstance(built, Text)
    return built


def write(here: Path) -> None:
    (here / "own" / "Zoë").mkdir(parents=True)
    (here / "own" / "anna.txt").write_bytes(("ab" * 20 + "\r\n" + "cd" * 20).encode())
    (here / "own" / "bob.TXT").write_bytes(("\ufeff" + "äö " * 30).encode())
    (here / "own" / "Zoë" / "2.txt").write_text("second " * 6)
    (here / "own" / "Zoë" / "1.txt").write_text("first " * 6)
    (here / "own" / "notes.pdf").write_bytes(b"%PDF")


def test_support_is_the_earlier_part_of_a_clients_visible_text(here: Path) -> None:
    write(here)
    built = family(characters="äö")
    assert sorted(built.names) == ["Zoë", "anna", "bob"]
    assert built.spec == shape_of_tasks("text", OPTIONS | {"characters": "äö"})
    letters = {"anna": ("ab\n", "cd\n"), "bob": ("äö ", "äö "), "Zoë": ("first\n se", "second\n ")}
    for client, name in enumerate(built.names):
        tasks = built.sample(client, 40, stream(0))
        assert tasks.support_x.shape == (40, 2, 5)
        assert torch.equal(tasks.support_x[..., 1:], tasks.support_y[..., :-1])
        for side, wanted in zip((tasks.support_x, tasks.query_x), letters[name], strict=True):
            assert {built.characters[t] for t in side.flatten().tolist()} <= set(wanted)
    # Without them, other letters are one token, beyond all characters.
    client = built.names.index("bob")
    assert set(family().sample(client, 9, stream(0)).query_x.unique().tolist()) == {1, 97 - 1}


def test_the_digest_covers_every_file(here: Path) -> None:
    write(here)
    first = data_digest("text", OPTIONS, Population(3), family)
    (here / "own" / "Zoë" / "2.txt").write_text("Second " * 6)
    assert data_digest("text", OPTIONS, Population(3), family) not in (first, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "nowhere"}, "nothing at 'nowhere': name a folder of texts"),
        ({"path": "own/anna.txt"}, "is a file, not a folder"),
        ({"path": "empty"}, "has no texts: it needs a file"),
        ({"path": "twice"}, "two entries for client 'anna'"),
        ({"path": "blank"}, "anna.txt has no text"),
        ({"path": "binary"}, "anna.txt holds zero bytes"),
        ({"path": "hollow"}, "anna is a client without texts: add some, or leave it out"),
        ({"length": 30}, r"data\.\w+ = \d windows of 31 characters need \d+, but client '.+' has"),
        ({"skip": ["bob", "ana"]}, r"data\.skip: nothing at 'ana'.*did you mean 'anna'"),
        ({"skip": ["bob"]}, "clients = 3, but own has 2 clients"),
        ({"characters": "ab"}, r"data\.characters.*not ASCII"),
        ({"characters": "ää"}, r"data\.characters"),
    ],
)
def test_unusable_input_is_one_line(options: dict[str, Any], message: str, here: Path) -> None:
    write(here)
    for name in ("empty", "twice/anna", "blank", "binary", "hollow/anna"):
        (here / name).mkdir(parents=True)
    (here / "twice" / "anna" / "1.txt").write_text("one")
    (here / "twice" / "anna.txt").write_text("two")
    (here / "blank" / "anna.txt").write_text(" \n\u200b\n")
    (here / "binary" / "anna.txt").write_bytes(b"a\0b\0\0\0")
    alone = options.get("path") in ("blank", "binary", "hollow", "twice")
    with pytest.raises(FedmetaError, match=message) as caught:
        family(Population(1) if alone else Population(2, 0, 1), **options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
