"""A wheel brings compiled kernels, for machines without a compiler."""

import importlib.util
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fedmeta import __version__
from fedmeta.learning.native import build
from tests.kernels import needs_kernels

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is not None, reason="ziglang is a compiler that no PATH hides"
)


def build_wheel(out: Path, path: str | None = None) -> tuple[Path, str]:
    """Build as pip does; return the wheel and what was said."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)],
        cwd=ROOT,
        env=None if path is None else {"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return next(out.glob("*.whl")), done.stderr


@pytest.mark.slow
@needs_kernels
def test_a_machine_without_a_compiler_has_the_kernels_of_a_wheel(tmp_path: Path) -> None:
    wheel, _ = build_wheel(tmp_path / "dist")
    assert platform.machine() in wheel.name
    assert wheel.name.startswith(f"fedmeta-{__version__}-py3-none-")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(tmp_path / "installed")
    libraries = list((tmp_path / "installed" / "fedmeta/learning/native/lib").iterdir())
    assert len(libraries) == len(build.processors()) * len(build.DTYPES)
    asked = (
        "import torch\nfrom fedmeta.learning.native import build, kernel\n"
        "assert build.find_compiler() is None\n"
        "print(build.__file__, kernel.available(torch.float32), kernel.available(torch.float64))"
    )
    said = subprocess.run(
        [sys.executable, "-c", asked],
        cwd=tmp_path,
        env={"PATH": str(tmp_path), "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert Path(said[0]).is_relative_to(tmp_path)
    assert said[1:] == ["True", "True"]


def test_without_a_compiler_a_wheel_is_pure_python(tmp_path: Path) -> None:
    wheel, said = build_wheel(tmp_path / "dist", path=str(tmp_path))
    assert wheel.name == f"fedmeta-{__version__}-py3-none-any.whl"
    assert "no C compiler: this wheel has no native kernels" in said
    with zipfile.ZipFile(wheel) as content:
        assert not [name for name in content.namelist() if name.endswith(".so")]
