"""`fedmeta doctor`: check what this machine can run."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from fedmeta.cli.commands import Json
from fedmeta.files import to_json


def doctor(
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also import and try PyTorch and Flower; takes a few seconds."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check what this machine can run, and how to get the rest.

    Looks at versions, folders, data, compiler, GPU, Ray and chains. Exit code 1 if something is missing
    that every run needs; what only some runs need is marked 'optional'.
    """
    checks: list[dict[str, Any]] = []
    for name, needed, check in (*_CHECKS, *(_DEEP if deep else ())):
        try:
            state, detail = "ok", check()
        except Exception as error:
            # Any exception is a finding, not an error of the doctor.
            state, detail = ("failed" if needed else "optional"), str(error) or type(error).__name__
        checks.append({"check": name, "state": state, "detail": detail})
    if as_json:
        typer.echo(to_json({"checks": checks}))
    else:
        for row in checks:
            typer.echo(f"{row['state']:9} {row['check']:12} {row['detail']}")
    if any(row["state"] == "failed" for row in checks):
        raise typer.Exit(1)


def _versions() -> str:
    from fedmeta.experiment.made_with import versions

    found = versions()
    missing = [package for package, version in found.items() if version is None]
    if missing:
        raise RuntimeError(f"not installed: {', '.join(missing)}")
    return ", ".join(f"{package} {version}" for package, version in found.items())


def _flower() -> str:
    found = version("flwr")
    wanted = next(one for one in requires("fedmeta") or () if re.match(r"flwr[<>=]", one))
    series = tuple(map(int, found.split(".")[:2]))
    for sign, major, minor in re.findall(r"(>=|<)(\d+)\.(\d+)", wanted):
        if (series >= (int(major), int(minor))) != (sign == ">="):
            raise RuntimeError(f"flwr {found} is not supported: pip install '{wanted}'")
    return f"flwr {found} is supported ({wanted})"


def _machine() -> str:
    cores = f"{len(os.sched_getaffinity(0))} cores"
    threads = os.environ.get("OMP_NUM_THREADS")
    return f"{cores}, OMP_NUM_THREADS = {threads}" if threads else cores


def _temporary() -> str:
    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free / 2**30
    if free < 1:
        raise RuntimeError(f"{folder}: only {free:.1f} GiB are free")
    return f"{free:.0f} GiB free for temporary files"


def _runs() -> str:
    here = Path("runs") if Path("runs").is_dir() else Path()
    if not os.access(here, os.W_OK):
        raise RuntimeError(f"{here.resolve()} is not writable: run with --out in another folder")
    return f"{here.resolve()} is writable"


def _data() -> str:
    from fedmeta.tasks.data.sources import sources, where

    places = {name: where(name) for name in sources()}
    missing = [name for name, folder in places.items() if folder is None]
    found = ", ".join(f"{name} in {folder}" for name, folder in places.items() if folder) or "none"
    if missing:
        raise RuntimeError(
            f"{found}; missing: {', '.join(missing)} (get it with `fedmeta data fetch NAME`)"
        )
    return found


def _images() -> str:
    if find_spec("PIL") is None:
        raise RuntimeError("Pillow is not installed: pip install 'fedmeta[data]'")
    import PIL

    return f"pillow {PIL.__version__} reads Omniglot"


def _kernels() -> str:
    from fedmeta.learning.native.build import why_not
    from fedmeta.learning.native.kernel import available

    if not available():
        raise RuntimeError(f"{why_not()}; gradients are computed by PyTorch, more slowly")
    return "native kernels compute gradients of the built-in models"


def _compiler() -> str:
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    if compiler is None:
        raise RuntimeError("no C++ compiler: compile = true is not available")
    return f"{compiler} for compile = true; --deep tries the native kernels"


def _gpu() -> str:
    torch = version("torch")
    if torch.endswith("+cpu"):
        raise RuntimeError(f"torch {torch} is built without CUDA: device = 'cuda' is not available")
    query = shutil.which("nvidia-smi") or ""
    if not query:
        raise RuntimeError("no NVIDIA driver: device = 'cuda' is not available")
    names = subprocess.run(
        [query, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=20
    ).stdout.splitlines()
    if not names:
        raise RuntimeError("no CUDA device: device = 'cuda' is not available")
    return f"{names[0]} for device = 'cuda'"


def _ray() -> str:
    from fedmeta.federation.engines.ray import require_ray

    require_ray()
    return f"ray {version('ray')} for engine = 'ray'"


def _chain() -> str:
    from fedmeta.chain.errors import NO_EXTRA, has_extra

    if not has_extra():
        raise RuntimeError(NO_EXTRA)
    return f"web3 {version('web3')}, py-evm {version('py-evm')} for chain.provider = 'embedded'"


def _node(provider: str) -> str:
    from fedmeta.chain.errors import NO_EXTRA, has_extra

    if not has_extra():
        raise RuntimeError(NO_EXTRA)
    from fedmeta.chain.node_process import find_anvil, find_ganache

    found = {"anvil": find_anvil, "ganache": find_ganache}[provider]()
    return f"{found[-1]} for chain.provider = '{provider}'"


def _messages() -> str:
    from fedmeta.federation import check_flower

    return f"flwr {check_flower()}: messages work in this process"


def _tensors() -> str:
    import torch

    threads = f"torch {torch.__version__} uses {torch.get_num_threads()} threads"
    if not torch.cuda.is_available():
        return f"{threads} and no CUDA device"
    return f"{threads} and {torch.cuda.get_device_name()}"


_CHECKS: list[tuple[str, bool, Callable[[], str]]] = [
    ("versions", True, _versions),
    ("flower", True, _flower),
    ("machine", True, _machine),
    ("temporary", True, _temporary),
    ("runs", True, _runs),
    ("data", False, _data),
    ("images", False, _images),
    ("compiler", False, _compiler),
    ("gpu", False, _gpu),
    ("ray", False, _ray),
    ("chain", False, _chain),
    ("anvil", False, partial(_node, "anvil")),
    ("ganache", False, partial(_node, "ganache")),
]
_DEEP: list[tuple[str, bool, Callable[[], str]]] = [
    ("messages", True, _messages),
    ("tensors", True, _tensors),
    ("kernels", False, _kernels),
]
"""Checks that import what they test."""
