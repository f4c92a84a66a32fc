"""A contact sheet shows the first images of each class, a row for each client."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedmeta.errors import DataError
from fedmeta.tasks.own.contact_sheet import EACH, GAP, MOST_ROWS, NAME, SIDE, contact_sheet


def colour(client: int, label: int, index: int) -> tuple[int, int, int]:
    return 20 * client + 40, 20 * label, 50 * index


def write(root: Path, clients: list[str], classes: int, images: int) -> Path:
    """Write images of one colour each, which tells client, class and number."""
    for c, client in enumerate(clients):
        for label in range(classes):
            folder = root / client / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(images):
                Image.new("RGB", (30, 30), colour(c, label, index)).save(folder / f"{index}.png")
    return root


def shown(sheet: bytes, row: int, column: int) -> tuple[int, ...]:
    """The colour in the middle of a place."""
    pixels = np.asarray(Image.open(BytesIO(sheet)))
    middle = SIDE // 2 + GAP
    return tuple(pixels[middle + row * (SIDE + GAP), NAME + middle + column * (SIDE + GAP)].tolist())


def test_a_row_begins_with_the_first_image_of_each_class(tmp_path: Path) -> None:
    sheet = contact_sheet(write(tmp_path / "own", ["anna", "bo"], classes=4, images=3))
    assert Image.open(BytesIO(sheet)).size[1] == 2 * (SIDE + GAP) + GAP
    for row in range(2):
        for column in range(EACH):
            assert shown(sheet, row, column) == colour(row, column % 4, column // 4)


def test_without_clients_a_row_is_a_class_and_rows_have_a_limit(tmp_path: Path) -> None:
    sheet = contact_sheet(write(tmp_path / "own", [""], classes=3, images=2))
    assert [shown(sheet, 2, column) for column in (0, 1)] == [colour(0, 2, 0), colour(0, 2, 1)]
    assert Image.open(BytesIO(sheet)).size[0] == NAME + 2 * (SIDE + GAP) + GAP
    many = contact_sheet(write(tmp_path / "many", [f"c{k:02d}" for k in range(MOST_ROWS + 2)], 1, 1))
    assert Image.open(BytesIO(many)).size[1] == MOST_ROWS * (SIDE + GAP) + GAP


def test_an_image_that_cannot_be_read_leaves_its_place_empty(tmp_path: Path) -> None:
    root = write(tmp_path / "own", ["anna"], classes=2, images=1)
    (root / "anna" / "class0" / "0.png").write_bytes(b"no image")
    sheet = contact_sheet(root)
    assert shown(sheet, 0, 0) == (255, 255, 255)
    assert shown(sheet, 0, 1) == colour(0, 1, 0)


def test_what_has_no_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "anna.txt").write_text("a text")
    with pytest.raises(DataError, match=r"--pictures is for folders of images: .*texts is none"):
        contact_sheet(tmp_path / "texts")
