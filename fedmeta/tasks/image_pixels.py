"""Decodes image files of any mode and depth into upright samples with opacity."""

import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fedmeta.errors import DataError
from fedmeta.files import open_file, reason

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.float32]

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")
LONGEST = 65_535
"""Most pixels of a side, as in JPEG; it bounds the memory for resampling."""
LARGEST = 1 << 25
"""Most pixels of an image, such as 8192 x 4096: decoding and resampling take some 25 bytes for each."""
MOST_BYTES = 1 << 28
"""Most bytes of an image file."""
_AT_ONCE = 1 << 22
_EVERY = 4
_COLOURED = 0.1

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, struct.error, zlib.error)
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
# TIFF tags.
_SAMPLE_BITS, _PHOTOMETRIC, _PLANAR = 258, 262, 284
# Pillow's names for 16-bit colours, and the rawmodes that unpack all of their bands unchanged.
_WIDE = {"RGB": "RGB", "RGBX": "RGBX", "RGBA": "RGBA", "RGBa": "RGBA", "LA": "LA"}
# Pillow scales grey of 2 and 4 bits to 8, but not the transparent value.
_GREY_SCALE = {"L;2": 85, "L;4": 17}
# Compressed TIFF samples have this machine's byte order, but Pillow expects the file's for these.
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
_PLAIN = {
    "1": "L",
    "L": "L",
    "LA": "LA",
    "La": "LA",
    "RGB": "RGB",
    "RGBX": "RGB",
    "RGBA": "RGBA",
    "RGBa": "RGBA",
    "P": "RGB",
    "PA": "RGBA",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "HSV": "RGB",
}


class UnreadableError(Exception):
    """A file that cannot be used; the message says why."""


@dataclass(frozen=True)
class Kind:
    """The kind of an image file.

    Attributes:
        format: Its format by content, such as ``PNG`` or ``JPEG``.
        mode: Its colours and depth, such as ``16-bit grey``.
        size: Width and height, upright.
        transparent: Whether parts of it are transparent.
        several: Whether it has more than one image, of which only the first is read.
        bits: Bits per sample in use; 0: floats from 0 to 1.
        coloured: Whether it shows another colour than greys.
    """

    format: str
    mode: str
    size: tuple[int, int]
    transparent: bool
    several: bool
    bits: int = 8
    coloured: bool = False


@dataclass(frozen=True)
class Decoded:
    """An image as it is stored.

    Attributes:
        samples: ``[H, W]`` or ``[H, W, 3]``.
        alpha: ``[H, W]``, opacity; None: opaque.
        bits: Declared bits per sample; 0: floating point.
        kind: The kind of the file.
        alpha_bits: Bits of the opacity.
        premultiplied: Whether samples were multiplied by their opacity.
        negative: Whether 0 is white.
    """

    samples: NDArray[Any]
    alpha: NDArray[Any] | None
    bits: int
    kind: Kind
    alpha_bits: int = 8
    premultiplied: bool = False
    negative: bool = False

    def shade(self, top: float, alpha_top: float, channels: int, white: bool) -> Pixels:
        """Return brightness ``[channels, H, W]`` on white or black paper; `top` becomes 1."""
        height, width = self.samples.shape[:2]
        # Large images are processed in blocks of rows, as several copies of the values are made.
        rows = max(_AT_ONCE // width, 1)
        parts = [
            self._shade(slice(first, first + rows), (top, alpha_top), channels, white)
            for first in range(0, height, rows)
        ]
        planes = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return np.repeat(planes, channels, axis=0) if len(planes) < channels else planes

    def _shade(self, rows: slice, tops: tuple[float, float], channels: int, white: bool) -> Pixels:
        pixels = self.samples[rows].astype(np.float32) / np.float32(tops[0])
        if self.negative:
            pixels = 1.0 - pixels
        if pixels.ndim == 3 and channels == 1:
            pixels = pixels @ _LUMA
        pixels = np.atleast_3d(pixels)
        if self.alpha is not None:
            alpha = (self.alpha[rows].astype(np.float32) / np.float32(tops[1]))[..., None]
            if not self.premultiplied:
                pixels = pixels * alpha
            if white:
                pixels = pixels + (1.0 - alpha)
        planes: Pixels = pixels.transpose(2, 0, 1)
        return planes


def decode(file: Path | BytesIO) -> Decoded:
    """Read one image, from a file or from bytes.

    Raises:
        UnreadableError: If it is not a complete image of the `FORMATS`, or too large.
        DataError: If Pillow is missing.
    """
    with _opened(file) as image:
        # Pillow misreads these as planes of 8 bits.
        if _tag(image, _PLANAR) == 2 and _tag(image, _SAMPLE_BITS) > 8:
            raise UnreadableError("keeps 16-bit colours in separate planes: save it as PNG")
        layout = _rawmode(image)
        name, _, order = layout.partition(";16")
        if not (order and name in _WIDE):
            return _plain(image, layout)
        if name == "LA":
            four = _unpack(image, "RGBA")  # two bytes of grey, two of opacity
            samples, alpha = _join(four[..., 0], four[..., 1]), _join(four[..., 2], four[..., 3])
            return Decoded(samples, alpha, 16, _kind(image, "16-bit grey", samples, alpha), 16)
        ends = {"B": "BL", "L": "LB", "N": "LB" if sys.byteorder == "little" else "BL"}[order]
        high = _unpack(image, f"{_WIDE[name]};16{ends[0]}")
    # Pillow keeps one byte of each sample; unpacked in the wrong byte order, it keeps the other one.
    with _opened(file) as image:
        samples = _join(high, _unpack(image, f"{_WIDE[name]};16{ends[1]}"))
        return _deep_colour(image, samples, premultiplied=name == "RGBa")


@contextmanager
def _opened(file: Path | BytesIO) -> "Iterator[Image]":
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise DataError("reading images needs Pillow: pip install 'fedmeta[data]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with _bytes(file) as data, Image.open(data, formats=FORMATS) as image:
                if max(image.size) > LONGEST or image.width * image.height > LARGEST:
                    raise UnreadableError(
                        f"is {image.width} x {image.height} pixels: a side may have at most {LONGEST}, "
                        f"and an image {LARGEST}"
                    )
                yield image
    except UnidentifiedImageError:
        if isinstance(file, Path) and not file.stat().st_size:
            raise UnreadableError("is empty") from None
        kinds = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise UnreadableError(f"not a {kinds} image, or of an unsupported kind") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UnreadableError("too many pixels") from None
    except _BROKEN as error:
        raise UnreadableError(f"cannot be read ({reason(error)})") from None


@contextmanager
def _bytes(file: Path | BytesIO) -> Iterator[BinaryIO]:
    if isinstance(file, BytesIO):
        yield file
        return
    with open_file(file, MOST_BYTES) as opened:
        yield opened


def _plain(image: "Image", layout: str) -> Decoded:
    """Read an image whose samples Pillow keeps in full."""
    if layout in _NATIVE and image.tile[0][0] == "libtiff":  # type: ignore[attr-defined]
        _retile(image, _NATIVE[layout])
    upright = _upright(image)
    key: Any = upright.info.get("transparency")
    if upright.mode.startswith("I") or upright.mode == "F":
        return _deep_grey(image, np.asarray(upright), key)
    if upright.mode not in _PLAIN:
        raise UnreadableError(f"has unsupported colours ({upright.mode}): save it as RGB")
    stored, mode = upright.mode, _PLAIN[upright.mode]
    if stored == "P" and upright.has_transparency_data:
        mode = "RGBA"
    samples = np.asarray(upright.convert(mode))
    alpha: NDArray[Any] | None = None
    if mode in ("LA", "RGBA"):
        alpha = samples[..., -1]
        samples = samples[..., 0] if mode == "LA" else samples[..., :3]
    elif key is not None:
        alpha = _opaque_but(np.array(key) * _GREY_SCALE.get(layout, 1), samples)
    shown = {"1": "1-bit", "P": "palette", "PA": "palette", "L": "8-bit grey"}
    shown |= {"LA": "8-bit grey", "La": "8-bit grey", "RGBX": "8-bit RGB", "RGBa": "8-bit RGBA"}
    return Decoded(samples, alpha, 8, _kind(image, shown.get(stored, f"8-bit {stored}"), samples, alpha))


def _deep_grey(image: "Image", samples: NDArray[Any], key: Any) -> Decoded:
    """Return grey of more than 8 bits, or of floats."""
    alpha = None if key is None else _opaque_but(key, samples)
    negative = image.format == "TIFF" and _tag(image, _PHOTOMETRIC) == 0
    bits = 0 if samples.dtype.kind == "f" else int(_tag(image, _SAMPLE_BITS) or 16)
    shown = f"{bits}-bit grey" if bits else "float grey"
    return Decoded(samples, alpha, bits, _kind(image, shown, samples, alpha), negative=negative)


def _deep_colour(image: "Image", samples: NDArray[Any], premultiplied: bool) -> Decoded:
    """Return colours of 16 bits, ``[H, W, 3]`` or with their opacity ``[H, W, 4]``."""
    key = image.info.get("transparency")
    alpha: NDArray[Any] | None = None if key is None else _opaque_but(key, samples)
    alpha_bits = 8
    if samples.shape[2] == 4:
        alpha, alpha_bits = samples[..., 3], 16
    kind = _kind(image, "16-bit RGB" if alpha is None else "16-bit RGBA", samples, alpha)
    return Decoded(samples[..., :3], alpha, 16, kind, alpha_bits, premultiplied)


def _kind(image: "Image", mode: str, samples: NDArray[Any], alpha: NDArray[Any] | None) -> Kind:
    # The further images of an MPO file are previews and depth maps of the same photo.
    several = image.format != "MPO" and bool(getattr(image, "is_animated", False))
    format_ = "JPEG" if image.format == "MPO" else str(image.format)
    see_through = alpha is not None and bool(alpha.min() < alpha.max())
    size = (samples.shape[1], samples.shape[0])
    return Kind(format_, mode, size, see_through, several, coloured=_is_coloured(samples))


def _is_coloured(samples: NDArray[Any]) -> bool:
    """Return whether colours differ from greys by more than a camera's noise; some pixels are enough."""
    if samples.ndim != 3:
        return False
    some = samples[::_EVERY, ::_EVERY].astype(np.float32)
    return bool((some.max(axis=2) - some.min(axis=2)).max() > _COLOURED * max(float(some.max()), 1.0))


def _upright(image: "Image") -> "Image":
    from PIL import ImageOps

    image.load()
    upright: Image = ImageOps.exif_transpose(image)
    return upright


def _unpack(image: "Image", rawmode: str) -> NDArray[np.uint8]:
    """Return ``[H, W, bands]``, unpacked from the file by another rawmode than Pillow's own."""
    _retile(image, rawmode)
    return np.asarray(_upright(image))


def _retile(image: "Image", rawmode: str) -> None:
    tiles: Any = image.tile  # type: ignore[attr-defined]
    image.tile = [  # type: ignore[attr-defined]
        one._replace(args=rawmode if isinstance(one.args, str) else (rawmode, *one.args[1:]))
        for one in tiles
    ]


def _join(high: NDArray[np.uint8], low: NDArray[np.uint8]) -> NDArray[np.uint16]:
    joined: NDArray[np.uint16] = np.left_shift(high, 8, dtype=np.uint16)
    joined |= low
    return joined


def _rawmode(image: "Image") -> str:
    """Return Pillow's rawmode of an image; empty if it is not known yet."""
    for tile in getattr(image, "tile", ())[:1]:
        args = tile[3]
        return args if isinstance(args, str) else str(args[0]) if args else ""
    return ""


def _tag(image: "Image", number: int) -> Any:
    """Return the (first) value of a TIFF tag; None if there is none."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) else value


def _opaque_but(key: Any, samples: NDArray[Any]) -> NDArray[np.uint8]:
    """Return opacity ``[H, W]``, 0 where a pixel has the colour `key` and 255 elsewhere."""
    same = samples == np.array(key)
    if samples.ndim == 3:
        same = same.all(axis=2)
    return np.where(same, 0, 255).astype(np.uint8)
