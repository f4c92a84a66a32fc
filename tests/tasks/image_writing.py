"""Image files written byte by byte, so that tests know what is in them without a library."""

import struct
import zlib
from pathlib import Path

import numpy as np


def png(path: Path, samples: np.ndarray, depth: int, key: tuple[int, ...] = ()) -> Path:
    """Write ``[H, W]`` or ``[H, W, bands]`` samples of `depth` bits; `key` is the transparent colour."""
    rows = samples[..., None] if samples.ndim == 2 else samples
    height, width, bands = rows.shape
    flat = rows.reshape(height, -1)
    if depth == 16:
        packed = flat.astype(">u2").view(np.uint8)
    else:
        bits = np.unpackbits(flat.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        packed = np.packbits(bits.reshape(height, -1), axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in packed)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))]
    if key:
        chunks.append((b"tRNS", struct.pack(f">{len(key)}H", *key)))
    chunks += [(b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def tiff(path: Path, samples: np.ndarray, end: str = "<", deflate: bool = False, **tags: int) -> Path:
    """Write ``[H, W]`` or ``[H, W, bands]`` of any dtype as one strip, by TIFF 6.0.

    Args:
        path: The file.
        samples: Stored as they are.
        end: ``<`` for Intel's order of bytes, ``>`` for Motorola's.
        deflate: Whether to compress.
        tags: ``photometric`` (0: 0 is white), ``extra`` (1: opacity multiplied in, 2: not), ``planar``.
    """
    rows = samples[..., None] if samples.ndim == 2 else samples
    height, width, bands = rows.shape
    planes = bands if tags.get("planar") == 2 else 1
    rows = rows.transpose(2, 0, 1) if planes > 1 else rows
    data = rows.astype(rows.dtype.newbyteorder(end)).tobytes()
    data = zlib.compress(data) if deflate else data
    bits, form = samples.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    photometric = tags.get("photometric", 2 if bands >= 3 else 1)
    entries = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [bits] * bands),
        (259, 3, [8 if deflate else 1]),
        (262, 3, [photometric]),
        (273, 4, [0] * planes),
        (277, 3, [bands]),
        (278, 4, [height]),
        (279, 4, [len(data) // planes] * planes),
        (284, 3, [tags.get("planar", 1)]),
        *([(338, 3, [tags["extra"]])] if "extra" in tags else []),
        (339, 3, [form] * bands),
    ]
    start = 8 + 2 + 12 * len(entries) + 4
    beyond, directory = b"", struct.pack(end + "H", len(entries))
    sizes = {3: ("H", 2), 4: ("I", 4)}
    lengths = [sizes[kind][1] * len(values) for _, kind, values in entries]
    later = sum(length for length in lengths if length > 4)
    for tag, kind, values in entries:
        if tag == 273:
            values = [start + later + len(data) // planes * plane for plane in range(planes)]
        packed = struct.pack(f"{end}{len(values)}{sizes[kind][0]}", *values)
        if len(packed) > 4:
            place, beyond = start + len(beyond), beyond + packed
            packed = struct.pack(end + "I", place)
        directory += struct.pack(end + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    head = (b"II" if end == "<" else b"MM") + struct.pack(end + "HI", 42, 8)
    path.write_bytes(head + directory + struct.pack(end + "I", 0) + beyond + data)
    return path
