"""Reads image files of any size and colour as model inputs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedmeta.errors import DataError, UsageError
from fedmeta.tasks.image_bit_depth import RANGES, Reach, reach_of, tops
from fedmeta.tasks.image_pixels import Kind, Pixels, UnreadableError, decode

Invert = Literal["auto", "yes", "no"]

_FAINT = 0.1


@dataclass(frozen=True)
class ImageStyle:
    """The format of a family's images, to which files are converted.

    Attributes:
        ink: Whether images are ink 1 on paper 0; otherwise they are plain brightness.
        mean: Mean to subtract from pixels in [0, 1].
        deviation: Standard deviation to divide by.
    """

    ink: bool = True
    mean: float = 0.0
    deviation: float = 1.0


@dataclass(frozen=True)
class Images:
    """Image files as model inputs.

    Attributes:
        x: ``[B, *input_shape]``, float32.
        inverted: Whether dark became 1.
        unlike: Files whose edge brightness disagrees with `inverted`.
        kinds: The kind of each file.
        notes: Decisions made, one line each.
    """

    x: Tensor
    inverted: bool
    unlike: tuple[Path, ...]
    kinds: tuple[Kind, ...]
    notes: tuple[str, ...]


def read_images(
    files: Sequence[Path],
    style: ImageStyle,
    input_shape: Sequence[int],
    invert: Invert = "auto",
    samples: int | None = None,
) -> Images:
    """Read image files of any of the `FORMATS`, and any mode and depth.

    Each is rotated by its EXIF orientation, placed on paper where it is transparent, made grey (or RGB,
    if the input has three channels), padded to the input's proportions with the median of its edge, and
    averaged over the area of each input pixel. Then, as `style` says, ink becomes 1 and paper 0, and
    pixels are standardised.

    Args:
        files: The files to read.
        style: The format of the result.
        input_shape: ``[C, H, W]``, ``[H, W]``, or ``[N]`` for square grey images with N pixels.
        invert: Whether ink is dark in the files; ``auto``: yes if most of them have a light edge.
        samples: Bits in use in files with room for more than 8, one of the `RANGES`; None: inferred from
            all files together, see `tops`.

    Raises:
        DataError: If a file is not a complete image, or is blank, or Pillow is missing; the message
            names the first.
        UsageError: If `input_shape` is not that of an image, or as many edges are light as dark.
    """
    small: dict[int, Pixels] = {}
    scanned = scan(files, Reading(style, input_shape, invert, samples), small.__setitem__)
    pixels = np.stack([small[place] for place in range(len(files))])
    if scanned.inverted:
        pixels = 1.0 - pixels
    x = (torch.from_numpy(pixels) - style.mean) / style.deviation
    x = x.view(len(files), *input_shape)
    return Images(x, scanned.inverted, scanned.unlike, scanned.kinds, scanned.notes)


@dataclass(frozen=True)
class Reading:
    """How to read image files; see `read_images` for the other attributes.

    Attributes:
        strict: Whether an unreadable file is an error; otherwise it is left out, and named.
    """

    style: ImageStyle
    input_shape: Sequence[int]
    invert: Invert = "auto"
    samples: int | None = None
    strict: bool = True


@dataclass(frozen=True)
class Scanned:
    """What image files have in common; see `Images` for the other attributes.

    Attributes:
        read: The files that could be read.
        refused: The others, and why.
    """

    inverted: bool
    unlike: tuple[Path, ...]
    kinds: tuple[Kind, ...]
    notes: tuple[str, ...]
    read: tuple[Path, ...]
    refused: tuple[tuple[Path, str], ...] = ()


def scan(files: Sequence[Path], how: Reading, keep: Callable[[int, Pixels], None]) -> Scanned:
    """Read image files as `read_images` does, one at a time, and leave their pixels as they are.

    Args:
        files: The files to read.
        how: How to read them.
        keep: Called once for each file, with its index and its brightness ``[C, H, W]`` in [0, 1], at
            the size of an input.

    Raises:
        DataError: As `read_images`.
        UsageError: As `read_images`.
    """
    size, samples = _size(how.input_shape), how.samples
    if samples is not None and samples not in RANGES:
        raise UsageError(f"samples must be one of {', '.join(map(str, RANGES))} bits (got {samples})")
    ends = [np.inf, -np.inf]

    def measured(place: int, pixels: Pixels) -> None:
        ends[:] = min(ends[0], float(pixels.min())), max(ends[1], float(pixels.max()))
        keep(place, pixels)

    found = _read_all(files, size, how.invert != "no", samples, measured)
    if found.refused and (how.strict or len(found.refused) == len(files)):
        raise DataError(_first_of(found.refused))
    places = sorted(found.edges)
    read = tuple(files[place] for place in places)
    kinds = tuple(found.kinds[place] for place in places)
    inverted, unlike = _polarity([found.edges[place] for place in places], how.style, how.invert)
    notes = (*found.notes, *_remarks(read, kinds, ends[0], ends[1]))
    others = tuple(read[i] for i in unlike)
    return Scanned(inverted, others, kinds, notes, read, tuple(found.refused))


def area_weights(cells: int, pixels: int, canvas: float | None = None) -> Pixels:
    """Return the weights of a row of `pixels` in the averages over evenly spaced `cells`.

    Args:
        cells: Number of cells.
        pixels: Number of pixels.
        canvas: Total width of the cells in pixels, with the row in the middle; None: `pixels`.

    Returns:
        ``[cells, pixels]``; rows sum to 1, or less where a cell reaches beyond the pixels.
    """
    canvas = float(pixels) if canvas is None else canvas
    edges = np.arange(cells + 1) * (canvas / cells) - (canvas - pixels) / 2
    places = np.arange(pixels)
    overlap = np.minimum(edges[1:, None], places + 1) - np.maximum(edges[:-1, None], places)
    weights: Pixels = (np.clip(overlap, 0.0, None) * (cells / canvas)).astype(np.float32)
    return weights


def _size(input_shape: Sequence[int]) -> tuple[int, int, int]:
    """Return channels, height and width of an input."""
    shape = tuple(input_shape)
    if len(shape) == 1 and round(shape[0] ** 0.5) ** 2 == shape[0]:
        side = round(shape[0] ** 0.5)
        return 1, side, side
    if len(shape) == 2:
        return 1, shape[0], shape[1]
    if len(shape) == 3 and shape[0] in (1, 3):
        return shape[0], shape[1], shape[2]
    raise UsageError(f"inputs of shape {list(shape)} are not grey or RGB images")


@dataclass
class _Found:
    """What is found in files, by their index; and the files that cannot be read."""

    edges: dict[int, float]
    kinds: dict[int, Kind]
    notes: list[str]
    refused: list[tuple[Path, str]]


def _read_all(
    files: Sequence[Path],
    size: tuple[int, int, int],
    white: bool,
    samples: int | None,
    keep: Callable[[int, Pixels], None],
) -> _Found:
    """Pass each file's small image to `keep`; return the brightness of its edge, its kind, and notes."""
    found = _Found({}, {}, [], [])
    deep: dict[int, Reach] = {}

    def fit(place: int, pixels: Pixels) -> None:
        small, found.edges[place] = _fit(pixels, size[1:])
        keep(place, small)

    def first(place: int) -> None:
        image = decode(files[place])
        found.kinds[place] = image.kind
        if image.bits == 8:
            fit(place, image.shade(255.0, 255.0, size[0], white))
        else:
            deep[place] = reach_of(files[place], image)

    def again(place: int) -> None:
        image = decode(files[place])
        top, opaque = ranges[place]
        fit(place, image.shade(top, opaque if image.alpha_bits > 8 else 255.0, size[0], white))

    found.refused += _each(files, range(len(files)), first)
    spans, found.notes = tops(list(deep.values()), samples)
    ranges = dict(zip(deep, spans, strict=True))
    for place, (top, _) in ranges.items():
        found.kinds[place] = replace(found.kinds[place], bits=int(top).bit_length() if top > 1 else 0)
    # Decoded again rather than kept, as a folder of deep images may be larger than memory.
    found.refused += _each(files, deep, again)
    return found


def _each(
    files: Sequence[Path], places: Iterable[int], use: Callable[[int], None]
) -> list[tuple[Path, str]]:
    """Call `use` for each file; return those that cannot be read, and why."""
    refused: list[tuple[Path, str]] = []
    for place in places:
        try:
            use(place)
        except UnreadableError as error:
            refused.append((files[place], str(error)))
    return refused


def _first_of(refused: Sequence[tuple[Path, str]]) -> str:
    file, why = refused[0]
    more = f" (and {len(refused) - 1} more files)" if refused[1:] else ""
    return f"{file}: {why}{more}"


def _fit(pixels: Pixels, size: tuple[int, ...]) -> tuple[Pixels, float]:
    """Return ``[C, H, W]`` at the size of an input, and the brightness of the edge."""
    if pixels.min() == pixels.max():
        raise UnreadableError("is blank")
    height, width = pixels.shape[1:]
    sides = [pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]]
    edge = np.median(np.concatenate(sides, axis=1), axis=1)[:, None, None]
    scale = max(height / size[0], width / size[1])
    rows = area_weights(size[0], height, scale * size[0])
    columns = area_weights(size[1], width, scale * size[1])
    small: Pixels = rows @ (pixels - edge) @ columns.T + edge
    return small, float(edge.mean())


def _remarks(files: Sequence[Path], kinds: Sequence[Kind], low: float, high: float) -> list[str]:
    notes = []
    several = [file for file, kind in zip(files, kinds, strict=True) if kind.several]
    if several:
        notes.append(
            f"files with more than one image: {len(several)}, such as {several[0]}; the first is read"
        )
    if high - low < _FAINT:
        notes.append(
            f"the images are faint: their brightness is between {low:.3f} and {high:.3f}, "
            "where black is 0 and white 1"
        )
    return notes


def _polarity(edges: list[float], style: ImageStyle, invert: Invert) -> tuple[bool, list[int]]:
    """Return whether to invert, and the images whose edges disagree."""
    if not style.ink:
        return False, []
    light = [edge > 0.5 for edge in edges]
    if invert == "auto" and 2 * sum(light) == len(light):
        raise UsageError(
            "as many images have light edges as dark ones: set --invert yes or no (yes: ink is dark)"
        )
    inverted = 2 * sum(light) > len(light) if invert == "auto" else invert == "yes"
    return inverted, [index for index, is_light in enumerate(light) if is_light != inverted]
