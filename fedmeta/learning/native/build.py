"""Compiles the kernels' C files: ``python -m fedmeta.learning.native.build``.

Imports the standard library alone, so that building a wheel needs no more.
"""

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent
MODELS = ("mlp", "conv4", "lstm")
DTYPES = ("float32", "float64")
# No sum is reordered and no product fused except where the source says so: the same bits everywhere.
FLAGS = (
    "-std=c11",
    "-O3",
    "-fPIC",
    "-shared",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
)
PROCESSORS = {"avx512": ("-mavx512f", "-mavx2", "-mfma"), "avx2": ("-mavx2", "-mfma"), "arm64": ()}
TIMEOUT_S = 300


def processors() -> tuple[str, ...]:
    """Return the kinds of processors that machines like this one have."""
    machine = platform.machine().lower()
    if machine in ("arm64", "aarch64"):
        return ("arm64",)
    return ("avx512", "avx2") if machine in ("x86_64", "amd64") else ()


def processor() -> str | None:
    """Return the kind of processor to compile for; None: there are no kernels for it."""
    if processors() == ("arm64",):
        return "arm64"
    import torch

    kind = torch.backends.cpu.get_cpu_capability().lower()
    return kind if kind in PROCESSORS else None


def find_compiler() -> list[str] | None:
    """Return the command of a C compiler: the system's, or that of the package ``ziglang``."""
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return [path]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    return None


def why_not() -> str:
    """Return why there are no native kernels here."""
    if processor() is None:
        return "native kernels need a processor with AVX2, AVX-512 or 64-bit ARM"
    if find_compiler() is None:
        return "no C compiler to build native kernels: install gcc, clang or the package ziglang"
    return "native kernels cannot be compiled or loaded: see `python -m fedmeta.learning.native.build`"


def own_path(dtype: str, kind: str) -> Path:
    """Return where a library of these sources is beside them, if it is there."""
    return SOURCES / "lib" / f"fedmeta-{_digest()}-{dtype}-{kind}.so"


def library_path(dtype: str, kind: str) -> Path:
    """Return where a library of these sources is or goes.

    That is the folder ``FEDMETA_KERNELS``, or else beside the sources, or in the cache if these are
    read-only.
    """
    own = own_path(dtype, kind)
    if named := os.environ.get("FEDMETA_KERNELS"):
        return Path(named).expanduser() / own.name
    if own.is_file() or os.access(SOURCES, os.W_OK):
        return own
    from fedmeta.tasks.data.sources import cache_folder

    return cache_folder() / "kernels" / own.name


def build(dtype: str, kind: str, compiler: Sequence[str], path: Path) -> None:
    """Compile one library of all models to `path`, which is whole or absent at any time.

    Raises:
        OSError: If the compiler fails; the message has its first lines.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        flags = [*FLAGS, *PROCESSORS[kind], *(["-DDOUBLE"] if dtype == "float64" else [])]
        files = [str(SOURCES / f"{model}.c") for model in MODELS]
        command = [*compiler, *flags, *files, "-o", str(made), "-lm"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        if ended.returncode:
            raise OSError(f"{compiler[0]} failed: {' '.join(ended.stderr.split()[:40])}")
        made.replace(path)


def build_if_missing(dtype: str, kind: str) -> Path | None:
    """Return the library's path, compiling it first if needed; None if that is not possible here."""
    path = library_path(dtype, kind)
    if path.is_file():
        return path
    compiler = find_compiler()
    if compiler is None:
        return None
    try:
        build(dtype, kind, compiler, path)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return path


@cache
def _digest() -> str:
    """Return the first digits of the SHA-256 of the sources and flags."""
    parts = [" ".join([*FLAGS, *map(str, PROCESSORS.items())]).encode()]
    parts += [file.read_bytes() for file in sorted(SOURCES.glob("*.[ch]"))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def main() -> int:
    """Compile the libraries for this processor and print where they are; 0 even if it cannot be done."""
    kind, compiler = processor(), find_compiler()
    if kind is None or compiler is None:
        print(f"PyTorch's autograd computes all gradients, more slowly: {why_not()}")
        return 0
    for dtype in DTYPES:
        path = library_path(dtype, kind)
        if not path.is_file():
            try:
                build(dtype, kind, compiler, path)
            except (OSError, subprocess.TimeoutExpired) as error:
                print(f"Native kernels are not available: {error}")
                return 0
        print(f"Native kernels, {dtype}: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
