"""The public API: quick to import, and the same names as in its packages."""

import ast
import importlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import fedmeta
from tests import processes
from tests.experiment.helpers import TINY

HEAVY = {"torch", "flwr", "numpy", "pydantic", "sklearn", "typer", "rich"}


def promised() -> dict[str, str]:
    """The names that type checkers see, each with its module, read from the source."""
    tree = ast.parse(Path(fedmeta.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {
        alias.name: node.module
        for node in imports
        for alias in node.names
        if node.module and node.module.startswith("fedmeta.")
    }


def test_importing_fedmeta_imports_nothing_heavy() -> None:
    script = f"import sys, fedmeta; print(sorted({HEAVY!r} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


@pytest.mark.parametrize("name", sorted(promised()))
def test_a_name_is_the_one_that_type_checkers_see(name: str) -> None:
    assert getattr(fedmeta, name) is getattr(importlib.import_module(promised()[name]), name)


def test_all_names_are_promised_and_none_more() -> None:
    assert {*promised(), "__version__"} == set(fedmeta.__all__)
    assert set(fedmeta.__all__) <= set(dir(fedmeta))


def test_the_version_is_that_of_the_installed_package() -> None:
    assert fedmeta.__version__ == version("fedmeta")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'fedmeta' has no attribute 'rum'"):
        fedmeta.rum  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'rum'"):
        from fedmeta import rum  # noqa: F401


@pytest.mark.parametrize("library", ["scipy", "sklearn", "matplotlib", "mlflow", "torch._dynamo"])
def test_slow_imports_are_in_the_function_that_needs_them(library: str) -> None:
    found = []
    for path in Path(fedmeta.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            found += [str(path) for name in names if f"{name}.".startswith(f"{library}.")]
    assert found == []


@pytest.mark.parametrize("optimizer", ["Adam", "SGD", "Adagrad"])
def test_a_run_imports_neither_pytorchs_compiler_nor_scikit_learn(
    optimizer: str, tmp_path: Path
) -> None:
    # Each takes longer than a small run.
    small = TINY | {"task": "digits", "rounds": 1, "server.optimizer": optimizer}
    script = (
        "import sys, fedmeta\n"
        f"fedmeta.run('quickstart', {small}, out='run')\n"
        "print(sorted({'torch._dynamo', 'sklearn'} & set(sys.modules)))"
    )
    shown = processes.run([sys.executable, "-c", script], cwd=tmp_path)
    assert shown.stdout == "[]\n", shown.stderr


def test_no_lazy_name_is_that_of_a_module_beside_it() -> None:
    """Importing the module would take the place of what the package exports."""
    clashes = []
    for package in Path(fedmeta.__file__).parent.rglob("__init__.py"):
        source = package.read_text(encoding="utf-8")
        if "lazy_names" in source:
            modules = {path.stem for path in package.parent.iterdir()}
            nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
            exported = {alias.name for node in nodes if node.module != "fedmeta" for alias in node.names}
            clashes += [f"{package.parent.name}.{name}" for name in exported & modules]
    assert clashes == []
