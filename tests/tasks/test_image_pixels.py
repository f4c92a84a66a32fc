"""One drawing in every mode and depth of the supported formats, written byte by byte."""

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedmeta.errors import DataError
from fedmeta.tasks.image_files import Images, ImageStyle, read_images
from fedmeta.tasks.image_pixels import UnreadableError, decode
from tests.tasks.image_writing import png, tiff


def flag(top: int) -> np.ndarray:
    """Dark ink on light paper in levels 0 to `top`: black, a third grey, and paper; not symmetric."""
    page = np.full((9, 9), top, dtype=np.uint16)
    page[2:7, 2] = 0
    page[2:4, 3:7] = top // 3
    return page


def ink(third: float = 1 / 3) -> np.ndarray:
    page = np.zeros((9, 9))
    page[2:7, 2] = 1
    page[2:4, 3:7] = 1 - third
    return page


def read(file: Path, **more: Any) -> Images:
    return read_images([file], ImageStyle(), (1, 9, 9), **more)


def shows(images: Images, page: np.ndarray, tolerance: float = 1e-5) -> bool:
    return bool(np.allclose(images.x[0, 0].numpy(), page, atol=tolerance))


def bands(*planes: np.ndarray) -> np.ndarray:
    return np.stack(planes, axis=2)


@pytest.mark.parametrize("depth", [2, 4, 8, 16])
class TestPng:
    def test_grey(self, depth: int, tmp_path: Path) -> None:
        assert shows(read(png(tmp_path / "x.png", flag(2**depth - 1), depth)), ink())

    def test_grey_with_a_transparent_colour(self, depth: int, tmp_path: Path) -> None:
        top = 2**depth - 1
        for key in sorted({1 + top // 3, top - 1, 0} - {top // 3}):
            page = flag(top)
            page[page == top] = key
            if key == 0:
                page[2:7, 2] = top  # white ink would not show: there is the third alone
            images = read(png(tmp_path / "x.png", page, depth, (key,)), invert="yes")
            expected = np.where(page == top // 3, 2 / 3, 0) if key == 0 else ink()
            assert shows(images, expected), key
            assert images.kinds[0].transparent


@pytest.mark.parametrize("depth", [8, 16])
class TestColourPng:
    def test_rgb_is_luma(self, depth: int, tmp_path: Path) -> None:
        top = 2**depth - 1
        page = flag(top)
        orange = np.where(page == top // 3, top // 5, page)
        images = read(png(tmp_path / "x.png", bands(page, orange, page), depth))
        # ITU-R BT.601: 0.299 and 0.114 of a third, 0.587 of a fifth.
        assert shows(images, ink(0.413 / 3 + 0.587 / 5), 1e-4)

    def test_rgb_with_a_transparent_colour(self, depth: int, tmp_path: Path) -> None:
        top = 2**depth - 1
        page = flag(top)
        key = (top // 2, top // 7, top // 5)
        colours = bands(*(np.where(page == top, one, page) for one in key))
        assert shows(read(png(tmp_path / "x.png", colours, depth, key)), ink(), 1e-4)

    def test_black_ink_by_opacity(self, depth: int, tmp_path: Path) -> None:
        page = flag(2**depth - 1)
        none, opacity = np.zeros_like(page), 2**depth - 1 - page
        assert shows(read(png(tmp_path / "x.png", bands(none, opacity), depth)), ink())
        assert shows(read(png(tmp_path / "y.png", bands(none, none, none, opacity), depth)), ink())

    def test_hidden_colours_do_not_show(self, depth: int, tmp_path: Path) -> None:
        top = 2**depth - 1
        page = flag(top)
        opacity = np.where(page == top, 0, top)
        hidden = np.where(page == top, np.arange(81).reshape(9, 9) * (top // 90), page)
        assert shows(read(png(tmp_path / "x.png", bands(hidden, opacity), depth)), ink())


def test_colours_of_16_bits_are_distinguished_by_their_lower_bytes(tmp_path: Path) -> None:
    page = flag(65535)
    # The key differs from paper by one in 65,536: paper stays, and nothing is transparent.
    images = read(
        png(tmp_path / "x.png", bands(page, page, page), 16, (65535, 65534, 65535)), invert="no"
    )
    assert shows(images, 1 - ink())
    assert not images.kinds[0].transparent


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_fewer_bits_in_16_keep_their_resolution_in_colour_too(bits: int, tmp_path: Path) -> None:
    page = flag(2**bits - 1)
    none, opacity = np.zeros_like(page), 2**bits - 1 - page
    for samples in (
        page,
        bands(page, page, page),
        bands(none, opacity),
        bands(none, none, none, opacity),
    ):
        assert shows(read(png(tmp_path / "x.png", samples, 16)), ink())


@pytest.mark.parametrize("end", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
class TestTiff:
    def test_deep_grey(self, end: str, deflate: bool, tmp_path: Path) -> None:
        file = tmp_path / "x.tif"
        for samples in (
            flag(65535),
            flag(4095),
            flag(4095).astype(np.int16),
            flag(65535).astype(np.int32),
            (flag(65535) / 65535).astype(np.float32),
            flag(255).astype(np.float32),
        ):
            assert shows(read(tiff(file, samples, end, deflate)), ink()), samples.dtype

    def test_0_may_be_white(self, end: str, deflate: bool, tmp_path: Path) -> None:
        file = tmp_path / "x.tif"
        negatives = [(255 - flag(255)).astype(np.uint8), (1 - flag(3) / 3).astype(np.float32)]
        # Pillow knows no such file of 16 bits in Motorola's order.
        for samples in negatives + ([65535 - flag(65535)] if end == "<" else []):
            assert shows(read(tiff(file, samples, end, deflate, photometric=0)), ink()), samples.dtype

    def test_colours_of_16_bits(self, end: str, deflate: bool, tmp_path: Path) -> None:
        file, page = tmp_path / "x.tif", flag(65535)
        none, opacity = np.zeros_like(page), 65535 - page
        assert shows(read(tiff(file, bands(page, page, page), end, deflate)), ink())
        assert shows(read(tiff(file, bands(none, none, none, opacity), end, deflate, extra=2)), ink())
        assert shows(read(tiff(file, bands(none, none, none, opacity), end, deflate, extra=1)), ink())
        # Grey of a third, half of it there: as stored a sixth, and it looks as bright as two thirds.
        half = np.where(page == 65535, 0, 32768).astype(np.uint16)
        sixth = np.where(page == 65535, 0, 10923).astype(np.uint16)
        images = read(tiff(file, bands(sixth, sixth, sixth, half), end, deflate, extra=1))
        assert shows(images, np.where(page == 65535, 0, 1 / 3), 1e-4)


@pytest.mark.parametrize("suffix", ["gif", "bmp", "webp", "tif", "png"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_other_kinds_show_the_same(suffix: str, mode: str, tmp_path: Path) -> None:
    page = (
        Image.fromarray(flag(255).astype(np.uint8)).point(lambda level: 255 * (level > 9)).convert(mode)
    )
    options = {"lossless": True} if suffix == "webp" else {}
    page.save(tmp_path / f"x.{suffix}", **options)
    assert shows(read(tmp_path / f"x.{suffix}"), ink() == 1)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "PA", "LA", "RGBX"])
def test_tiff_of_other_colours(mode: str, tmp_path: Path) -> None:
    page = Image.fromarray(flag(255).astype(np.uint8))
    page.convert("L" if mode in ("PA", "LA") else "RGB").convert(mode).save(tmp_path / "x.tif")
    assert shows(read(tmp_path / "x.tif"), ink(), 0.005)


def test_the_content_counts_and_not_the_name(tmp_path: Path) -> None:
    png(tmp_path / "x.jpg", flag(255), 8)
    images = read(tmp_path / "x.jpg")
    assert shows(images, ink())
    assert (images.kinds[0].format, images.kinds[0].mode) == ("PNG", "8-bit grey")


def test_images_without_brightness_are_refused_in_one_line(tmp_path: Path) -> None:
    lab = Image.new("LAB", (9, 9))
    lab.save(tmp_path / "lab.tif")
    deep = flag(65535).astype(np.float32)
    spoilt = deep.copy()
    spoilt[0, 0] = np.nan
    colours = bands(flag(65535), flag(65535), flag(65535))
    cases = {
        r"unsupported colours \(LAB\): save it as RGB": tmp_path / "lab.tif",
        "negative samples": tiff(tmp_path / "a.tif", flag(4095).astype(np.int16) - 99),
        "not finite": tiff(tmp_path / "b.tif", spoilt),
        "samples of 131070, beyond 16 bits": tiff(tmp_path / "c.tif", deep * 2),
        "neither 0 to 1 nor": tiff(tmp_path / "d.tif", deep / 65535 * 1.5),
        "16-bit colours in separate planes": tiff(tmp_path / "e.tif", colours, planar=2),
    }
    for reason, file in cases.items():
        with pytest.raises(DataError, match=reason) as refusal:
            read(file)
        assert str(file) in str(refusal.value)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["x.png", "x.gif", "x.bmp", "x.webp", "x.tif", "x.jpg"])
def test_half_a_file_is_one_line(name: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 60), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:1500])
    with pytest.raises(DataError) as refusal:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def head_of_png(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds 1,000 bytes."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


@pytest.mark.parametrize(
    ("width", "height"), [(60_000_000, 1), (1, 70_000), (65_535, 513), (8_193, 4_096)]
)
def test_a_size_is_refused_before_it_takes_memory(tmp_path: Path, width: int, height: int) -> None:
    (tmp_path / "a.png").write_bytes(head_of_png(width, height))
    with pytest.raises(UnreadableError, match=rf"is {width} x {height} pixels: a side"):
        decode(tmp_path / "a.png")


def test_a_pipe_a_device_and_a_file_of_5_gb_are_not_images(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(5 << 30)
    for name, said in (("pipe", "Not a regular"), ("zero", "Not a regular"), ("large", "Larger than")):
        with pytest.raises(UnreadableError, match=said):
            decode(tmp_path / f"{name}.png")


def test_a_large_image_is_shaded_as_a_small_one_is(tmp_path: Path) -> None:
    """Stretches of rows: what a photo of 5 million pixels shows is its own tile, over and over."""
    tile = np.random.default_rng(0).integers(0, 256, (50, 100, 4), dtype=np.uint8)
    for name, times in (("small", (1, 1, 1)), ("large", (40, 26, 1))):
        Image.fromarray(np.tile(tile, times)).save(tmp_path / f"{name}.png")
    small, large = (
        decode(tmp_path / f"{name}.png").shade(255.0, 255.0, 1, white=True)[0]
        for name in ("small", "large")
    )
    np.testing.assert_allclose(large, np.tile(small, (40, 26)), atol=1e-6)
