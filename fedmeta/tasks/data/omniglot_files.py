"""Reads Omniglot's official zip files into small grey images, and caches them."""

import hashlib
import re
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmeta.errors import DataError
from fedmeta.files import one_line, open_file
from fedmeta.tasks.data.archives import BROKEN, require_small
from fedmeta.tasks.data.sources import cache_folder, how_to_fetch, sha256_of
from fedmeta.tasks.image_files import area_weights
from fedmeta.tasks.image_pixels import UnreadableError, decode

PAGE = 105
SIDE = 28
MOST_BYTES = 1 << 25
"""Bytes of a zip file; the largest official one has 9.5 million."""
_MOST_DRAWING = 1 << 18

# Part of the name of a cached file: raise it when what `_decode` yields changes.
_FORMAT = "omniglot 2"
_MEMBER = re.compile(r"(?:.*/)?(?P<alphabet>[^/]+)/(?P<character>character\d+)/\d+_\d+\.png")


@dataclass(frozen=True)
class Characters:
    """Drawings of characters.

    Attributes:
        images: ``[N, size, size]``, uint8, ink 255.
        character: ``[N]``, which character each image shows.
        names: The name of each character, such as ``Korean/character07``.
        files: ``[characters]``, the index of the zip file each one comes from.
    """

    images: NDArray[np.uint8]
    character: NDArray[np.int64]
    names: tuple[str, ...]
    files: NDArray[np.int64]

    @property
    def alphabets(self) -> tuple[str, ...]:
        """The alphabet of each character."""
        return tuple(name.partition("/")[0] for name in self.names)


def read_characters(files: Sequence[Path], source: str, size: int = SIDE) -> Characters:
    """Read official zip files in order, skipping alphabets that an earlier file has.

    The result is cached under the SHA-256 of the files, so a second read takes milliseconds.

    Args:
        files: The zip files.
        source: Their data set, for messages.
        size: Side of the images in pixels, at most 105, that of the files.

    Raises:
        DataError: If a file is corrupt or holds no drawings, or Pillow is missing to decode them.
    """
    sums = [sha256_of(file, MOST_BYTES) for file in files]
    sized = [f"size {size}"] if size != SIDE else []
    key = hashlib.sha256(" ".join([_FORMAT, *sums, *sized]).encode()).hexdigest()[:32]
    cached = cache_folder() / "decoded" / f"omniglot-{key}.npz"
    known = _load(cached)
    if known is None:
        known = _decode_all(files, source, size)
        _save(known, cached)
    return known


def shrink(ink: NDArray[np.float32], size: int = SIDE) -> NDArray[np.uint8]:
    """Average ``[B, 105, 105]`` over each of `size` x `size` cells; 255 is a cell full of ink.

    Of 28 x 28, a cell is 3.75 pixels wide; a pixel on its border is weighted by the area inside.
    """
    weights = area_weights(size, PAGE)
    grey: NDArray[np.uint8] = np.rint(weights @ ink @ weights.T * 255.0).astype(np.uint8)
    return grey


def _decode_all(files: Sequence[Path], source: str, size: int) -> Characters:
    images: list[NDArray[np.uint8]] = []
    names: list[str] = []
    origin: list[int] = []
    for place, file in enumerate(files):
        earlier = {name.partition("/")[0] for name in names}
        try:
            for name, drawings in _decode(file, earlier):
                images.append(shrink(drawings, size))
                names.append(name)
                origin.append(place)
        except BROKEN as error:
            reason = one_line(str(error) or type(error).__name__, 300)
            hint = how_to_fetch(source, corrupt=file)
            raise DataError(f"{file} is corrupt or truncated ({reason}): {hint}") from None
    counts = [len(drawings) for drawings in images]
    return Characters(
        np.concatenate(images),
        np.repeat(np.arange(len(names)), counts),
        tuple(names),
        np.array(origin, dtype=np.int64),
    )


def _decode(file: Path, skip: set[str]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield each character's name and its drawings ``[drawers, 105, 105]``, ink 1."""
    with open_file(file, MOST_BYTES) as data, zipfile.ZipFile(data) as archive:
        require_small(archive)
        bad = archive.testzip()
        if bad:
            raise zipfile.BadZipFile(f"bad CRC-32 of {bad}")
        members: dict[str, list[str]] = {}
        for member in sorted(archive.namelist()):
            match = _MEMBER.fullmatch(member)
            if match:
                members.setdefault(f"{match['alphabet']}/{match['character']}", []).append(member)
        if not members:
            raise ValueError("it holds no alphabet/characterNN/XXXX_DD.png")
        for name, drawings in members.items():
            if name.partition("/")[0] not in skip:
                yield name, np.stack([_page(_member(archive, drawing), drawing) for drawing in drawings])


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    # The size in its header may be wrong; a bounded read never unpacks more than requested.
    with archive.open(name) as member:
        data = member.read(_MOST_DRAWING + 1)
    if len(data) > _MOST_DRAWING:
        raise ValueError(f"{name} is not a drawing: larger than {_MOST_DRAWING} bytes")
    return data


def _page(png: bytes, name: str) -> NDArray[np.float32]:
    try:
        image = decode(BytesIO(png))
    except UnreadableError as error:
        raise ValueError(f"{name} {error}") from None
    width, height = image.kind.size
    if (width, height) != (PAGE, PAGE):
        raise ValueError(f"{name} is {width}x{height}, not {PAGE}x{PAGE}")
    if image.bits != 8:
        raise ValueError(f"{name} has more than 8 bits per sample")
    ink: NDArray[np.float32] = (image.shade(255.0, 255.0, 1, white=True)[0] < 0.5).astype(np.float32)
    return ink


def _load(cached: Path) -> Characters | None:
    """Return the cached drawings; None if there are none or they are damaged."""
    try:
        with cached.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            return Characters(
                kept["images"], kept["character"], tuple(kept["names"].tolist()), kept["files"]
            )
    except (*BROKEN, KeyError):
        return None


def _save(characters: Characters, cached: Path) -> None:
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
            whole = Path(folder) / cached.name
            np.savez_compressed(
                whole,
                images=characters.images,
                character=characters.character,
                names=np.array(characters.names),
                files=characters.files,
            )
            whole.replace(cached)
    except OSError:
        # The cache only saves a few seconds; a run also works without it.
        return
