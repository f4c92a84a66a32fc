"""The range of deep samples is inferred from all images together, or given."""

from pathlib import Path

import numpy as np
import pytest

from fedmeta.errors import DataError, UsageError
from fedmeta.tasks.image_files import Images, ImageStyle, read_images
from tests.tasks.image_writing import png, tiff


def step(dark: int, light: int) -> np.ndarray:
    """Left half dark, right half light."""
    page = np.full((6, 6), dark, dtype=np.uint16)
    page[:, 3:] = light
    return page


def read(*files: Path, samples: int | None = None) -> Images:
    return read_images(files, ImageStyle(ink=False), (1, 6, 6), samples=samples)


def lights(images: Images) -> list[float]:
    """How bright the light half of each image is."""
    return [round(float(page[0, 0, 5]), 4) for page in images.x]


@pytest.mark.parametrize(
    ("bits", "largest"), [(8, 200), (10, 1000), (12, 4080), (14, 16000), (16, 40000)]
)
def test_a_dark_image_among_others_stays_dark(bits: int, largest: int, tmp_path: Path) -> None:
    light = png(tmp_path / "light.png", step(7, largest), 16)
    dark = png(tmp_path / "dark.png", step(0, largest // 50), 16)
    images = read(light, dark)
    top = 2**bits - 1
    assert lights(images) == [round(largest / top, 4), round(largest // 50 / top, 4)]
    (note,) = images.notes
    assert note.startswith(f"samples of more than 8 bits reach {largest}: taken as {bits} bits (")
    assert ("a guess" in note) == (largest < 0.9 * top and bits < 16)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_given_bits_override_the_inferred_ones(bits: int, tmp_path: Path) -> None:
    images = read(png(tmp_path / "x.png", step(0, 150), 16), samples=bits)
    assert lights(images) == [round(150 / (2**bits - 1), 4)]
    assert "as given" in images.notes[0]


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_an_image_saturated_at_the_top_of_fewer_bits_has_those(bits: int, tmp_path: Path) -> None:
    whole = png(tmp_path / "whole.png", step(0, 65535), 16)
    fewer = png(tmp_path / "fewer.png", step(0, 2**bits - 1), 16)
    beside = png(tmp_path / "beside.png", step(0, 2**bits - 2), 16)
    images = read(whole, fewer, beside)
    assert lights(images) == [1.0, 1.0, round((2**bits - 2) / 65535, 4)]
    assert images.notes[1] == f"1 of 3 taken as {bits} bits each, such as {fewer}"
    assert lights(read(whole, fewer, samples=16)) == [1.0, round((2**bits - 1) / 65535, 4)]


def test_transparent_pixels_count_for_the_range_too(tmp_path: Path) -> None:
    # Dark grey ink, 3000 of 65535, on white paper that is see-through: not ink of 12 bits.
    page = step(3000, 65535)
    keyed = png(tmp_path / "key.png", page, 16, (65535,))
    opacity = np.where(page == 65535, 0, 65535)
    cut = png(tmp_path / "cut.png", np.stack([np.where(page == 65535, 0, page), opacity], 2), 16)
    for file in (keyed, cut):
        images = read(file)
        assert float(images.x[0, 0, 0, 0]) == pytest.approx(3000 / 65535)
        assert lights(images) == [1.0]


def test_floats_are_0_to_1_or_as_bits(tmp_path: Path) -> None:
    page = step(0, 1000).astype(np.float32) / 1000
    cases = {0.9: 1, 0.01: 1, 250.5: 255, 1000: 1023, 60000: 65535}
    for light, top in cases.items():
        images = read(tiff(tmp_path / "x.tif", page * np.float32(light)))
        assert lights(images) == [round(light / top, 4)]
    # Each kind of sample has its own range.
    deep = png(tmp_path / "x.png", step(0, 4095), 16)
    images = read(tiff(tmp_path / "x.tif", page), deep)
    assert lights(images) == [1.0, 1.0]
    assert [note.split(":")[0] for note in images.notes] == [
        "samples of more than 8 bits reach 4095",
        "float samples reach 1",
    ]


def test_8_bit_images_ignore_the_samples_option(tmp_path: Path) -> None:
    file = png(tmp_path / "x.png", step(0, 51), 8)
    for samples in (None, 8, 12):
        images = read(file, samples=samples)
        assert lights(images) == [0.2]
        assert images.notes == ()


def test_samples_beyond_the_given_bits_are_refused(tmp_path: Path) -> None:
    file = png(tmp_path / "x.png", step(0, 4096), 16)
    with pytest.raises(DataError, match=r"x\.png: .* reach 4096, beyond the 4095 of 12 bits"):
        read(file, samples=12)
    with pytest.raises(UsageError, match="one of 8, 10, 12, 14, 16 bits"):
        read(file, samples=11)
