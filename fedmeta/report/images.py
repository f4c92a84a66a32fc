"""Pictures of inputs, as PNG files within a page; written by hand, for Pillow may be missing."""

import base64
import struct
import zlib
from math import isqrt

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _COLOUR = 0, 2


def as_pictures(inputs: NDArray[np.float64]) -> NDArray[np.uint8] | None:
    """Return inputs as pictures, dark ink on white where they are grey.

    Args:
        inputs: ``[N, pixels]`` of a square, ``[N, 1, H, W]`` or ``[N, 3, H, W]``; the lowest and the
            highest value of all become the ends of the scale.

    Returns:
        ``[N, H, W, 1]`` or ``[N, H, W, 3]``; None if inputs of this shape are no pictures.
    """
    images = inputs
    if inputs.ndim == 2:
        side = isqrt(inputs.shape[1])
        if side < 4 or side * side != inputs.shape[1]:
            return None
        images = inputs.reshape(-1, 1, side, side)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not np.isfinite(images).all():
        return None
    low, high = float(images.min()), float(images.max())
    scaled = (images - low) / (high - low) if high > low else np.zeros_like(images)
    if images.shape[1] == 1:
        scaled = 1 - scaled
    return np.ascontiguousarray((scaled * 255).round().astype(np.uint8).transpose(0, 2, 3, 1))


def data_uri(picture: NDArray[np.uint8]) -> str:
    """Return a picture ``[H, W, 1 or 3]`` as the ``data:`` address of a PNG file."""
    return f"data:image/png;base64,{base64.b64encode(png(picture)).decode()}"


def png(picture: NDArray[np.uint8]) -> bytes:
    """Return a picture ``[H, W, 1 or 3]`` as a PNG file (W3C, PNG third edition, sections 5 and 11)."""
    height, width, channels = picture.shape
    kind = _GREY if channels == 1 else _COLOUR
    head = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in picture)
    return (
        _SIGNATURE + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    )


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
