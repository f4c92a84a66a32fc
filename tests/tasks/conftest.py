"""Data folders for tests: tiny ones in the official layout, and the real one if available."""

import os
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SMALL_1 = "omniglot/images_background_small1.zip"
SMALL_2 = "omniglot/images_background_small2.zip"
REAL = os.environ.get("FEDMETA_DATA", "")


def real_file(path: str) -> Path:
    """Return a file of the real data; skip the test where that is absent."""
    if not REAL or not (Path(REAL) / path).is_file():
        pytest.skip(f"FEDMETA_DATA names no folder with {path}")
    return Path(REAL) / path


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty FEDMETA_DATA folder, and a cache of the test's own."""
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setenv("FEDMETA_DATA", str(data))
    monkeypatch.setenv("FEDMETA_CACHE", str(tmp_path / "cache"))
    return data


def png(page: np.ndarray) -> bytes:
    """A one-bit PNG of ``page [H, W]``, ink 1 drawn black as in the official files."""
    out = BytesIO()
    Image.fromarray(np.where(page > 0, 0, 255).astype(np.uint8)).convert("1").save(out, "PNG")
    return out.getvalue()


def write_zip(
    path: Path, alphabets: dict[str, int], draw: Callable[[str, int, int], np.ndarray], drawers: int = 4
) -> None:
    """Write ``images/ALPHABET/characterNN/XXXX_DD.png`` for so many characters of each alphabet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for alphabet, characters in alphabets.items():
            for c in range(1, characters + 1):
                for d in range(1, drawers + 1):
                    name = f"{path.stem}/{alphabet}/character{c:02d}/{c:04d}_{d:02d}.png"
                    archive.writestr(name, png(draw(alphabet, c, d)))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, no FEDMETA_DATA, and an empty cache beside it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("FEDMETA_DATA", raising=False)
    monkeypatch.setenv("FEDMETA_CACHE", str(tmp_path / "cache"))
    return folder
