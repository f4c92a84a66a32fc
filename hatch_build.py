"""Puts the compiled kernels into a wheel; without a C compiler the wheel is pure Python."""

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags

NATIVE = "fedmeta/learning/native"


class KernelHook(BuildHookInterface[Any]):
    """Compiles the libraries for all processors that machines like this one have."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the libraries, and name the platform that they are for.

        Args:
            version: ``standard`` or ``editable``; an editable install compiles into its own folder.
            build_data: What hatchling is to build.
        """
        if version == "editable":
            return
        native = _build_module(Path(self.root) / NATIVE / "build.py")
        compiler = native.find_compiler()
        if compiler is None or not native.processors():
            lacking = "kernels for this processor" if compiler else "C compiler"
            self.app.display_warning(f"no {lacking}: this wheel has no native kernels")
            return
        for kind in native.processors():
            for dtype in native.DTYPES:
                path = native.own_path(dtype, kind)
                try:
                    if not path.is_file():
                        native.build(dtype, kind, compiler, path)
                except (OSError, subprocess.TimeoutExpired) as error:
                    self.app.display_warning(f"this wheel has no kernels for {dtype} on {kind}: {error}")
                    continue
                build_data["force_include"][str(path)] = f"{NATIVE}/lib/{path.name}"
        if build_data["force_include"]:
            # The libraries know nothing of Python, so any version will do.
            tags = platform_tags()
            platform = next(tag for tag in tags if tag.startswith("linux") or "linux" not in tag)
            build_data.update(pure_python=False, tag=f"py3-none-{platform}")


def _build_module(path: Path) -> ModuleType:
    """Load a file of the package without importing the package, whose requirements are not here."""
    spec = importlib.util.spec_from_file_location("build_kernels", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
