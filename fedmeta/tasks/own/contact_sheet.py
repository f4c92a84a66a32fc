"""Draws a contact sheet: a few images of each client, as they are read."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from fedmeta.errors import DataError
from fedmeta.tasks.image_files import ImageStyle, Reading, scan
from fedmeta.tasks.image_pixels import Pixels
from fedmeta.tasks.own.folders import IMAGES, Listing, kind_of, list_classes

SIDE, GAP, NAME = 64, 4, 120
"""Pixels of an image's sides, of what is between images, and of a row's name."""
EACH, MOST_ROWS = 10, 40
_PAPER, _INK, _SHOWN = 255, 0, 18


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
        raise DataError(f"{folder}: pictures are of folders of images")
    listed = list_classes(folder, IMAGES)
    rows = _rows(listed)
    height = len(rows) * (SIDE + GAP) + GAP
    sheet = np.full((height, NAME + EACH * (SIDE + GAP) + GAP, 3), _PAPER, dtype=np.uint8)
    places = [(row, column) for row, (_, files) in enumerate(rows) for column in range(len(files))]

    def paste(place: int, pixels: Pixels) -> None:
        row, column = places[place]
        top, left = GAP + row * (SIDE + GAP), NAME + GAP + column * (SIDE + GAP)
        image = np.rint(pixels.transpose(1, 2, 0) * 255.0).clip(0, 255)
        sheet[top : top + SIDE, left : left + SIDE] = image

    how = Reading(ImageStyle(ink=False), (3, SIDE, SIDE), samples=samples, strict=False)
    scan([file for _, files in rows for file in files], how, paste)
    return _png(sheet, [name for name, _ in rows])


def _rows(listed: Listing) -> list[tuple[str, list[Path]]]:
    """Return the name and the files of each row."""
    found: dict[str, dict[str, list[Path]]] = {}
    for owner, label, file in zip(
        listed.clients or listed.labels, listed.labels, listed.files, strict=True
    ):
        found.setdefault(owner, {}).setdefault(label, []).append(file)
    return [(name, _mixed(list(own.values()))) for name, own in list(found.items())[:MOST_ROWS]]


def _mixed(classes: Sequence[Sequence[Path]]) -> list[Path]:
    """Return the first file of each class, then the second ones, up to `EACH`."""
    ordered = sorted(
        (rank, place, file) for place, files in enumerate(classes) for rank, file in enumerate(files)
    )
    return [file for _, _, file in ordered[:EACH]]


def _png(sheet: np.ndarray, names: Sequence[str]) -> bytes:
    from PIL import Image, ImageDraw

    image = Image.fromarray(sheet)
    draw = ImageDraw.Draw(image)
    for row, name in enumerate(names):
        middle = GAP + row * (SIDE + GAP) + SIDE // 2
        # Pillow's own font has no other letters than these for sure.
        shown = name.encode("ascii", "replace").decode()
        draw.text((GAP, middle - 6), shown[:_SHOWN], fill=(_INK, _INK, _INK))
    out = BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
