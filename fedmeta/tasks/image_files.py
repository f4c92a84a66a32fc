"""Image files of any size and colour as the inputs of a model."""

import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmeta.errors import DataError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

Invert = Literal["auto", "yes", "no"]
Pixels = NDArray[np.float32]

FORMATS = ("PNG", "JPEG")
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


@dataclass(frozen=True)
class ImageStyle:
    """How a family's images look, so that files can be made to look alike.

    Attributes:
        ink: Whether they are ink 1 on paper 0; otherwise brightness is taken as it is.
        mean: Subtracted from pixels in [0, 1].
        deviation: What they are divided by then.
    """

    ink: bool = True
    mean: float = 0.0
    deviation: float = 1.0


@dataclass(frozen=True)
class Images:
    """Image files as a model reads them.

    Attributes:
        x: ``[B, *input_shape]``, float32.
        inverted: Whether dark became 1.
        unlike: Files whose edge is not as bright as that of most, by which it was decided.
    """

    x: Tensor
    inverted: bool
    unlike: tuple[Path, ...]


def read_images(
    files: Sequence[Path], style: ImageStyle, input_shape: Sequence[int], invert: Invert = "auto"
) -> Images:
    """Read PNG and JPEG files.

    Each is turned as its EXIF entry says, laid on paper where it is transparent, made grey (or RGB, if
    the input has three channels), padded to the input's proportions with the median of its edge, and
    averaged over the area of each pixel of the input. Then ink becomes 1 and paper 0, and pixels are
    standardised, as `style` says.

    Args:
        files: What to read.
        style: How the result should look.
        input_shape: ``[C, H, W]``, ``[H, W]``, or ``[N]`` for square grey images with N pixels.
        invert: Whether ink is dark in the files; ``auto``: whether most of them have a light edge.

    Raises:
        DataError: If a file is no whole PNG or JPEG, or blank, or Pillow is missing; the first is named.
        UsageError: If the input has no room for an image, or as many edges are light as dark.
    """
    size = _size(input_shape)
    small = _read_all(files, size, white=invert != "no")
    inverted, unlike = _polarity([edge for _, edge in small], style, invert)
    pixels = np.stack([image for image, _ in small])
    if inverted:
        pixels = 1.0 - pixels
    x = (torch.from_numpy(pixels) - style.mean) / style.deviation
    return Images(x.view(len(files), *input_shape), inverted, tuple(files[i] for i in unlike))


def area_weights(cells: int, pixels: int, canvas: float | None = None) -> Pixels:
    """Return how much each of `pixels` in a row adds to each of `cells` that are laid over it evenly.

    Args:
        cells: How many cells there are.
        pixels: How many pixels.
        canvas: Width of all cells together, in pixels; the row lies in the middle. None: as wide.

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
    raise UsageError(f"inputs of the shape {list(shape)} are no grey or RGB images")


def _read_all(
    files: Sequence[Path], size: tuple[int, int, int], white: bool
) -> list[tuple[Pixels, float]]:
    """Return each file's small image ``[C, H, W]`` in [0, 1], and the brightness of its edge."""
    read: list[tuple[Pixels, float]] = []
    problems: list[str] = []
    for file in files:
        try:
            read.append(_fit(_decode(file, size[0], white), size[1:]))
        except _UnreadableError as error:
            problems.append(f"{file}: {error}")
    if problems:
        more = f" (and {len(problems) - 1} more files)" if problems[1:] else ""
        raise DataError(problems[0] + more)
    return read


class _UnreadableError(Exception):
    """A file that cannot be used; the message says why."""


@contextmanager
def _opened(file: Path) -> "Iterator[Image]":
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise DataError("reading images needs Pillow: pip install 'fedmeta[data]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                yield image
    except UnidentifiedImageError:
        raise _UnreadableError(f"not a {' or '.join(FORMATS)} image") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise _UnreadableError("too many pixels") from None
    except _BROKEN as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise _UnreadableError(f"cannot be read ({reason})") from None


def _decode(file: Path, channels: int, white: bool) -> Pixels:
    """Return an image's pixels ``[C, H, W]`` in [0, 1], on white or black paper."""
    with _opened(file) as image:
        from PIL import Image, ImageOps

        if image.format == "PNG" and getattr(image, "is_animated", False):
            raise _UnreadableError("is animated: which of its images is meant?")
        image.load()
        upright: Any = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):
            # 16 bits: Pillow's own conversion to 8 would cut off all but the darkest.
            grey = np.asarray(upright).astype(np.float32) / 65535.0
            return np.repeat(grey[None], channels, axis=0)
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
            paper = Image.new("RGBA", upright.size, "white" if white else "black")
            upright = Image.alpha_composite(paper, upright)
        pixels = np.asarray(upright.convert("L" if channels == 1 else "RGB"), dtype=np.float32) / 255.0
        return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _fit(pixels: Pixels, size: tuple[int, ...]) -> tuple[Pixels, float]:
    """Return ``[C, H, W]`` at the size of an input, and the brightness of the edge."""
    if pixels.min() == pixels.max():
        raise _UnreadableError("is blank")
    height, width = pixels.shape[1:]
    sides = [pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]]
    edge = np.median(np.concatenate(sides, axis=1), axis=1)[:, None, None]
    scale = max(height / size[0], width / size[1])
    rows = area_weights(size[0], height, scale * size[0])
    columns = area_weights(size[1], width, scale * size[1])
    small: Pixels = rows @ (pixels - edge) @ columns.T + edge
    return small, float(edge.mean())


def _polarity(edges: list[float], style: ImageStyle, invert: Invert) -> tuple[bool, list[int]]:
    """Return whether to invert, and which images' edges speak against it."""
    if not style.ink:
        return False, []
    light = [edge > 0.5 for edge in edges]
    if invert == "auto" and 2 * sum(light) == len(light):
        raise UsageError(
            "as many images have light edges as dark ones: say whether ink is dark by --invert yes or no"
        )
    inverted = 2 * sum(light) > len(light) if invert == "auto" else invert == "yes"
    return inverted, [index for index, is_light in enumerate(light) if is_light != inverted]
