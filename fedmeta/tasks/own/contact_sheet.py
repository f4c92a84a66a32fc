"""Draws rows of images, as they are read: a few of each client, or those behind predictions."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedmeta.errors import DataError
from fedmeta.tasks.image_files import ImageStyle, Reading, scan
from fedmeta.tasks.image_pixels import Pixels
from fedmeta.tasks.own.folders import IMAGES, Listing, kind_of, list_classes

SIDE, GAP, NAME, LINE = 64, 4, 120, 12
"""Pixels: side of an image, gap between images, width of a row's names, height of a line of text."""
EACH, MOST_ROWS = 10, 40
_PAPER, _INK = 255, 0
_SHOWN, _CAPTION = 18, 10
"""Most letters of a name and of a caption."""


class Row(NamedTuple):
    """Images side by side.

    Attributes:
        names: Lines to the left of them.
        files: The images.
        captions: What is below each image; empty: nothing, and no room for it.
    """

    names: tuple[str, ...]
    files: tuple[Path, ...]
    captions: tuple[str, ...] = ()


def contact_sheet(folder: Path, samples: int | None = None) -> bytes:
    """Return a PNG with a row for each client, or for each class where there are no clients.

    A row has `EACH` images at most: the first one of each class, then the second ones. An image that
    cannot be read leaves its place empty. There are `MOST_ROWS` rows at most.

    Args:
        folder: The folder, laid out by class, or by client and class.
        samples: See `read_images`.

    Raises:
        DataError: If it is no such folder, or no image can be read.
    """
    if not folder.is_dir() or kind_of(folder) is not IMAGES:
        raise DataError(f"--pictures is for folders of images: {folder} is none")
    return draw_rows(_rows(list_classes(folder, IMAGES)), samples)


def draw_rows(rows: Sequence[Row], samples: int | None = None) -> bytes:
    """Return rows of images as a PNG, each image as it is read in colour.

    An image that cannot be read leaves its place empty. Letters beyond ASCII appear as question marks.

    Args:
        rows: The rows from top to bottom, with one image at least.
        samples: See `read_images`.

    Raises:
        DataError: If no image can be read.
    """
    below = LINE if any(row.captions for row in rows) else 0
    high = SIDE + below + GAP
    columns = max(len(row.files) for row in rows)
    size = (len(rows) * high + GAP, NAME + columns * (SIDE + GAP) + GAP, 3)
    sheet = np.full(size, _PAPER, dtype=np.uint8)
    places = [(row, column) for row, one in enumerate(rows) for column in range(len(one.files))]

    def paste(place: int, pixels: Pixels) -> None:
        row, column = places[place]
        top, left = GAP + row * high, NAME + GAP + column * (SIDE + GAP)
        image = np.rint(pixels.transpose(1, 2, 0) * 255.0).clip(0, 255)
        sheet[top : top + SIDE, left : left + SIDE] = image

    how = Reading(ImageStyle(ink=False), (3, SIDE, SIDE), samples=samples, strict=False)
    scan([file for row in rows for file in row.files], how, paste)
    return _png(sheet, rows, high)


def _rows(listed: Listing) -> list[Row]:
    found: dict[str, dict[str, list[Path]]] = {}
    for owner, label, file in zip(
        listed.clients or listed.labels, listed.labels, listed.files, strict=True
    ):
        found.setdefault(owner, {}).setdefault(label, []).append(file)
    owners = list(found.items())[:MOST_ROWS]
    return [Row((name,), _mixed(list(own.values()))) for name, own in owners]


def _mixed(classes: Sequence[Sequence[Path]]) -> tuple[Path, ...]:
    """Return the first file of each class, then the second ones, up to `EACH`."""
    ordered = sorted(
        (rank, place, file) for place, files in enumerate(classes) for rank, file in enumerate(files)
    )
    return tuple(file for _, _, file in ordered[:EACH])


def _png(sheet: np.ndarray, rows: Sequence[Row], high: int) -> bytes:
    from PIL import Image, ImageDraw

    image = Image.fromarray(sheet)
    draw = ImageDraw.Draw(image)

    def write(left: int, top: int, text: str, most: int) -> None:
        # Pillow's built-in font may lack any other letters.
        shown = text.encode("ascii", "replace").decode()
        draw.text((left, top), shown[:most], fill=(_INK, _INK, _INK))

    for place, row in enumerate(rows):
        top = GAP + place * high
        for line, name in enumerate(row.names):
            write(GAP, top + (SIDE - LINE * len(row.names)) // 2 + LINE * line, name, _SHOWN)
        for column, caption in enumerate(row.captions):
            write(NAME + GAP + column * (SIDE + GAP), top + SIDE, caption, _CAPTION)
    out = BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
