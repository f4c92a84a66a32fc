import gzip
import shlex
from pathlib import Path

import numpy as np
import pytest

from fedmeta.errors import DataError, MissingDataError
from fedmeta.tasks.data.mnist_file import MOST_UNPACKED, locate_mnist, read_mnist
from tests.tasks.conftest import real_file
from tests.tasks.data.mnist_writing import FILE, write_mnist, write_rows


def test_each_row_is_an_image_and_its_digit(folders: Path) -> None:
    rows = write_mnist(folders, each=2)
    images, digits = read_mnist(locate_mnist())
    assert images.shape == (20, 28, 28)
    # The page is written row by row: the pixel at line 3, column 5 is number 3 * 28 + 5.
    assert images[:, 3, 5].tolist() == rows[:, 89].tolist()
    assert digits.tolist() == rows[:, 784].tolist()


def test_a_file_that_was_replaced_is_read_again(folders: Path) -> None:
    first = write_mnist(folders, each=1, seed=1)
    assert read_mnist(folders / FILE)[1].tolist() == first[:, -1].tolist()
    second = write_mnist(folders, each=2, seed=2)
    assert read_mnist(folders / FILE)[1].tolist() == second[:, -1].tolist()


def test_the_official_file_has_500_images_of_each_digit() -> None:
    images, digits = read_mnist(real_file(FILE))
    assert images.shape == (5000, 28, 28)
    assert np.bincount(digits).tolist() == [500] * 10
    # MNIST is published with a mean of 0.1307 and a standard deviation of 0.3081.
    assert images.mean() / 255 == pytest.approx(0.1307, abs=0.002)
    assert images.std() / 255 == pytest.approx(0.3081, abs=0.002)


def rows_of(pixels: int, digits: list[int], value: int = 7) -> np.ndarray:
    rows = np.full((len(digits), pixels + 1), value)
    rows[:, -1] = digits
    return rows


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (rows_of(64, list(range(10))), "rows of 65 numbers, not 785"),
        (rows_of(784, [*range(10), 10]), r"the digits \[0, .*, 10\], not 0 to 9"),
        (rows_of(784, [1, 2, 3]), r"the digits \[1, 2, 3\], not 0 to 9"),
        (rows_of(784, list(range(10)), 256), "a pixel of 256"),
        (rows_of(784, list(range(10)), -3), "a pixel of -3"),
        (rows_of(784, list(range(10)), 1 << 40), ""),
    ],
)
def test_rows_that_are_not_images_are_refused(folders: Path, rows: np.ndarray, reason: str) -> None:
    write_rows(folders / FILE, rows)
    with pytest.raises(DataError, match=rf"is corrupt or truncated \(.*{reason}.*\): fetch it"):
        read_mnist(folders / FILE)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"0,1,2\n",
        gzip.compress(b""),
        gzip.compress(b"a page of text"),
        gzip.compress(b"1,2\n3\n"),
        gzip.compress(bytes(10_000))[:40],
        gzip.compress(bytes(MOST_UNPACKED + 1), 1),
    ],
    ids=["empty", "plain", "nothing inside", "text", "ragged", "truncated", "too much inside"],
)
def test_a_broken_file_is_one_line_with_the_command_that_replaces_it(
    folders: Path, content: bytes
) -> None:
    (folders / FILE).parent.mkdir()
    (folders / FILE).write_bytes(content)
    with pytest.raises(DataError) as refusal:
        read_mnist(folders / FILE)
    line = str(refusal.value)
    assert "\n" not in line
    assert line.startswith(f"{folders / FILE} is corrupt or truncated")
    command = shlex.split(line.split("`")[1])
    assert command == ["fedmeta", "data", "fetch", "mnist", "--folder", str(folders)]


def test_a_missing_file_is_named_with_the_command(folders: Path) -> None:
    with pytest.raises(
        MissingDataError, match=rf"{FILE} is not in {folders} .*`fedmeta data fetch mnist`"
    ):
        locate_mnist()
