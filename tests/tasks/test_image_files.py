"""Files of any size, colour and depth are converted to the format of a family's images."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fedmeta.errors import DataError, UsageError
from fedmeta.tasks import Omniglot, Population
from fedmeta.tasks.families.omniglot import OmniglotOptions
from fedmeta.tasks.image_files import ImageStyle, area_weights, read_images
from tests.tasks.conftest import SMALL_1, SMALL_2, write_zip
from tests.tasks.image_writing import png

INK = ImageStyle()


def letter(height: int = 12, width: int = 12) -> np.ndarray:
    """An L of ink 1 that is neither symmetric nor touches the edge."""
    page = np.zeros((height, width), dtype=np.float32)
    page[2 : height - 2, 3] = 1
    page[height - 3, 3 : width - 2] = 1
    return page


def grey(page: np.ndarray) -> np.ndarray:
    """Dark ink on light paper, 8 bits."""
    return np.rint(255 * (1 - page)).astype(np.uint8)


def read(*files: Path, shape: tuple[int, ...] = (1, 12, 12), **more: Any) -> torch.Tensor:
    return read_images(files, more.pop("style", INK), shape, **more).x


def same(x: torch.Tensor, page: np.ndarray, tolerance: float = 0.005) -> bool:
    return bool(np.allclose(x.numpy().reshape(page.shape), page, atol=tolerance))


def modes(page: np.ndarray) -> dict[str, Any]:
    """One drawing as the kinds of files that people have."""
    bytes_ = grey(page)
    base = Image.fromarray(bytes_)
    alpha = Image.fromarray(255 - bytes_)
    black = Image.new("L", base.size, 0)
    wide = Image.fromarray(np.rint(65535 * (1 - page)).astype(np.uint16))
    return {
        "L": base,
        "RGB": base.convert("RGB"),
        "1": base.convert("1"),
        "P": base.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE),
        "RGBA": Image.merge("RGBA", (black, black, black, alpha)),
        "LA": Image.merge("LA", (black, alpha)),
        "I;16": wide,
        "LA-opaque": Image.merge("LA", (base, Image.new("L", base.size, 255))),
    }


@pytest.mark.parametrize("mode", sorted(modes(letter())))
def test_a_png_of_any_mode_reads_the_same(mode: str, tmp_path: Path) -> None:
    modes(letter())[mode].save(tmp_path / "x.png")
    assert same(read(tmp_path / "x.png"), letter())


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_reads_nearly_the_same(mode: str, tmp_path: Path) -> None:
    big = np.kron(letter(), np.ones((8, 8), dtype=np.float32))
    Image.fromarray(grey(big)).convert(mode).save(tmp_path / "x.jpg", quality=95)
    assert same(read(tmp_path / "x.jpg"), letter(), tolerance=0.06)


def test_palette_with_a_transparent_colour_lies_on_paper(tmp_path: Path) -> None:
    image = Image.new("P", (12, 12))
    image.putdata((letter() > 0).astype(np.uint8).ravel().tolist())
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.save(tmp_path / "x.png", transparency=0)
    assert same(read(tmp_path / "x.png"), letter())


def test_exif_turns_a_photo_upright(tmp_path: Path) -> None:
    big = np.kron(letter(), np.ones((8, 8), dtype=np.float32))
    lying = Image.fromarray(np.rot90(grey(big)).copy())
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees clockwise to view"
    lying.save(tmp_path / "x.jpg", quality=95, exif=exif)
    assert same(read(tmp_path / "x.jpg"), letter(), tolerance=0.06)


def test_proportions_are_kept_and_the_rest_is_paper(tmp_path: Path) -> None:
    tall = letter(24, 12)
    Image.fromarray(grey(tall)).save(tmp_path / "tall.png")
    Image.fromarray(grey(tall.T)).save(tmp_path / "wide.png")
    padded = np.pad(tall, ((0, 0), (6, 6)))
    expected = padded.reshape(12, 2, 12, 2).mean((1, 3))
    assert same(read(tmp_path / "tall.png"), expected)
    assert same(read(tmp_path / "wide.png"), expected.T)


def test_grey_paper_is_continued_where_it_is_padded(tmp_path: Path) -> None:
    page = np.full((24, 12), 200, dtype=np.uint8)
    page[8:16, 4:8] = 0
    Image.fromarray(page).save(tmp_path / "x.png")
    x = read(tmp_path / "x.png")[0, 0]
    assert torch.allclose(x[:, 0], torch.tensor(1 - 200 / 255))
    assert torch.allclose(x[6, 6], torch.tensor(1.0))


def test_each_pixel_is_the_mean_over_its_area(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 45), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    x = read(tmp_path / "x.png", shape=(10, 15), style=ImageStyle(ink=False))
    assert same(x, pixels.reshape(10, 3, 15, 3).mean((1, 3)) / 255)


def test_weights_of_a_cell_are_the_parts_of_pixels_within_it() -> None:
    third = area_weights(2, 3)
    assert np.allclose(third, [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]])
    # Two pixels in the middle of a row that is four wide: the outer cells are half empty.
    assert np.allclose(area_weights(2, 2, canvas=4.0), [[0.5, 0], [0, 0.5]])
    assert np.allclose(area_weights(5, 5), np.eye(5))


def test_light_ink_on_a_dark_page_is_not_inverted(tmp_path: Path) -> None:
    Image.fromarray(255 - grey(letter())).save(tmp_path / "x.png")
    images = read_images([tmp_path / "x.png"], INK, (1, 12, 12))
    assert not images.inverted
    assert same(images.x, letter())


def test_the_invert_option_counts_more_than_the_edges(tmp_path: Path) -> None:
    Image.fromarray(grey(letter())).save(tmp_path / "x.png")
    images = read_images([tmp_path / "x.png"], INK, (1, 12, 12), invert="no")
    assert not images.inverted
    assert same(images.x, 1 - letter())
    assert images.unlike == (tmp_path / "x.png",)


def test_polarity_is_decided_once_for_all_and_exceptions_are_named(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for i, file in enumerate(files):
        Image.fromarray(255 - grey(letter()) if i == 2 else grey(letter())).save(file)
    images = read_images(files, INK, (1, 12, 12))
    assert images.inverted
    assert images.unlike == (files[2],)
    with pytest.raises(UsageError, match="--invert yes or no"):
        read_images(files[1:3], INK, (1, 12, 12))


def test_pixels_are_standardised_and_flat_where_the_family_has_them_so(tmp_path: Path) -> None:
    Image.fromarray(grey(letter())).save(tmp_path / "x.png")
    x = read(tmp_path / "x.png", shape=(144,), style=ImageStyle(mean=0.25, deviation=0.5))
    assert x.shape == (1, 144)
    assert same(x, (letter() - 0.25) / 0.5, tolerance=0.01)


def test_colour_inputs_stay_coloured(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "x.png")
    x = read(tmp_path / "x.png", shape=(3, 6, 6), style=ImageStyle(ink=False))
    assert same(x, colours.transpose(2, 0, 1) / 255)


def test_an_input_that_is_not_an_image_is_refused(tmp_path: Path) -> None:
    for shape in [(7,), (2, 6, 6), (1, 2, 3, 4)]:
        with pytest.raises(UsageError, match="not grey or RGB images"):
            read(tmp_path / "x.png", shape=shape)


def broken_files(folder: Path) -> dict[str, Path]:
    """Files that are no image, each with the word that must explain why."""
    whole = folder / "whole.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    Image.fromarray(noise).save(whole)
    contents = {
        "not a PNG, JPEG, ": b"hello",
        "is empty": b"",
        "cannot be read": whole.read_bytes()[:200],
        "No such file": None,
        "blank": "blank",
        "too many pixels": "bomb",
        "89000000 x 1 pixels: a side may have at most 65535": "wide",
        "Is a directory": "folder",
    }
    files = {}
    for number, (reason, content) in enumerate(contents.items()):
        file = files[reason] = folder / f"{number}.png"
        if isinstance(content, bytes):
            file.write_bytes(content)
        elif content == "blank":
            Image.new("L", (9, 9), 255).save(file)
        elif content == "bomb":
            Image.new("1", (20_000, 10_000)).save(file)
        elif content == "wide":
            png(file, np.zeros((1, 89_000_000), dtype=np.uint8), 1)
        elif content == "folder":
            file.mkdir()
        else:
            os.symlink(folder / "nowhere", file)
    return files


@pytest.mark.parametrize(("suffix", "form"), [("png", "PNG"), ("gif", "GIF"), ("tif", "TIFF")])
def test_of_several_images_the_first_is_read_with_a_note(suffix: str, form: str, tmp_path: Path) -> None:
    first, second = Image.fromarray(grey(letter())), Image.new("L", (12, 12), 7)
    first.save(tmp_path / f"x.{suffix}", form, save_all=True, append_images=[second, first])
    images = read_images([tmp_path / f"x.{suffix}"], INK, (1, 12, 12))
    assert same(images.x, letter())
    (note,) = images.notes
    assert note == f"files with more than one image: 1, such as {tmp_path}/x.{suffix}; the first is read"


@pytest.mark.parametrize("brightest", [1, 3, 16])
def test_nearly_black_images_are_reported_as_faint(brightest: int, tmp_path: Path) -> None:
    # A mask of 0 and 1, say, saved as if it were an image of 256 levels.
    Image.fromarray((letter() * brightest).astype(np.uint8)).save(tmp_path / "x.png")
    (note,) = read_images([tmp_path / "x.png"], INK, (1, 12, 12)).notes
    assert note.startswith(
        f"the images are faint: their brightness is between 0.000 and {brightest / 255:.3f}"
    )


def test_unreadable_files_are_named_with_the_reason(tmp_path: Path) -> None:
    for reason, file in broken_files(tmp_path).items():
        with pytest.raises(DataError, match=reason) as caught:
            read(tmp_path / "whole.png", file)
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_second_bad_file_is_counted(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.jpg"):
        (tmp_path / name).write_text("no image")
    with pytest.raises(DataError, match=r"a\.png: not a .* \(and 2 more files\)"):
        read(*(tmp_path / name for name in ("a.png", "b.png", "c.jpg")))


def test_a_truncated_jpeg_is_no_image(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.jpg")
    (tmp_path / "x.jpg").write_bytes((tmp_path / "x.jpg").read_bytes()[:-300])
    with pytest.raises(DataError, match="truncated"):
        read(tmp_path / "x.jpg")


def test_omniglot_drawings_from_files_are_those_of_the_family(folders: Path, tmp_path: Path) -> None:
    def draw(alphabet: str, character: int, drawer: int) -> np.ndarray:
        page = np.zeros((105, 105))
        page[20:80, 30 + 4 * character] = page[60, 10 * drawer : 90] = 1
        return page

    write_zip(folders / SMALL_1, {"Latin": 2}, draw)
    write_zip(folders / SMALL_2, {"Sanskrit": 2}, draw)
    options = OmniglotOptions(ways=2, rotations=False, test_alphabets=("Sanskrit",))
    family = Omniglot(options, Population(1, 0, 1), 0)
    for index, (character, drawer) in enumerate([(1, 1), (1, 2)]):
        page = draw("Latin", character, drawer)
        Image.fromarray(np.where(page > 0, 0, 255).astype(np.uint8)).save(tmp_path / "x.png")
        x = read(tmp_path / "x.png", shape=family.spec.input_shape, style=Omniglot.image_style)
        own = family.pool[index].numpy() / 255
        assert same(x, own, tolerance=0.5 / 255 + 1e-6)
