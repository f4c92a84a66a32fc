"""Parts by name, found by their folder; dotted paths, and where their modules may be."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedmeta.errors import ConfigError
from fedmeta.registry import Registry, import_dotted, run_folder_of

SOURCE = (
    "import pathlib\npathlib.Path({mark!r}).touch()\nclass Net: pass\ndef Later():\n    import {more}\n"
)


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that the tests' modules leave behind when they run; the current folder is a new one."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    before, path = set(sys.modules), list(sys.path)
    sys.path[:] = [place for place in sys.path if place]
    yield tmp_path / "ran"
    for name in set(sys.modules) - before:
        del sys.modules[name]
    sys.path[:] = path


def write(file: str, mark: Path, more: str = "json") -> None:
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SOURCE.format(mark=str(mark), more=more))


def test_a_module_of_the_current_folder_is_found_and_may_import_its_neighbours_later(mark: Path) -> None:
    write("mynets.py", mark, more="myparts")
    write("myparts.py", mark)
    assert import_dotted("mynets:Net", "model").__name__ == "Net"
    assert mark.exists()
    import_dotted("mynets:Later", "model")()
    assert sys.path[-1] == str(Path.cwd())


def test_a_module_that_answers_any_attribute_may_be_imported_on_the_way(mark: Path) -> None:
    """As `torch.classes` does, which a plain network's file may be the first to import."""
    Path("firstnet.py").write_text(
        "import sys, types\n"
        "class Eager(types.ModuleType):\n    def __getattr__(self, name):\n        return object()\n"
        "sys.modules['eager_classes'] = Eager('eager_classes')\nclass Net: pass\n"
    )
    assert import_dotted("firstnet:Net", "model").__name__ == "Net"
    assert sys.path[-1] == str(Path.cwd())


def test_the_current_folder_is_looked_at_last_and_only_while_a_path_is_imported(mark: Path) -> None:
    write("fractions.py", mark)
    write("wave.py", mark)
    before = list(sys.path)
    assert import_dotted("fractions:Fraction", "model").__module__ == "fractions"
    assert import_dotted("wave.Wave_read", "model").__name__ == "Wave_read"
    with pytest.raises(ConfigError, match="No module named 'nonesuch'"):
        import_dotted("nonesuch.Net", "model")
    assert sys.path == before
    assert not mark.exists()


@pytest.mark.parametrize("marker", ["run.json", "compare.json"])
@pytest.mark.parametrize(
    ("folder", "path"),
    [
        ("runs/theirs", "runs.theirs.net:Net"),
        ("theirs", "theirs.net.Net"),
        ("theirs/checkpoints/deep", "theirs.checkpoints.deep.net:Net"),
        ("a/b/c", "a.b.c.net:Net"),
        ("run-001", "run-001.net:Net"),
    ],
)
def test_no_module_in_a_runs_folder_is_imported(mark: Path, marker: str, folder: str, path: str) -> None:
    write(f"{folder}/net.py", mark)
    # The folder of the run is the topmost one but for a folder of runs.
    run = Path(folder.removeprefix("runs/").partition("/")[0] if "runs/" not in folder else folder)
    (run / marker).write_text("")
    with pytest.raises(ConfigError, match=f"model '{path}' is not imported: .*{run.name}, the folder"):
        import_dotted(path, "model")
    assert not mark.exists()


def test_a_package_in_a_runs_folder_runs_none_of_its_files(mark: Path) -> None:
    write("theirs/pack/__init__.py", mark)
    write("theirs/pack/net.py", mark)
    Path("theirs/run.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"theirs is in .*theirs, the folder"):
        import_dotted("theirs.pack.net:Net", "model")
    assert not mark.exists()


def test_a_link_to_a_module_in_a_runs_folder_is_followed_before_it_is_checked(mark: Path) -> None:
    write("theirs/net.py", mark)
    Path("theirs/run.json").write_text("{}")
    os.symlink("theirs/net.py", "shortcut.py")
    os.symlink("theirs", "alias")
    for path in ("shortcut:Net", "alias.net:Net"):
        with pytest.raises(ConfigError, match="which must not provide code"):
            import_dotted(path, "model")
    assert not mark.exists()


def test_a_runs_folder_is_not_searched_as_the_current_folder(
    mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("theirs/net.py", mark)
    Path("theirs/run.json").write_text("{}")
    monkeypatch.chdir("theirs")
    with pytest.raises(ConfigError, match="No module named 'net'"):
        import_dotted("net:Net", "model")
    sys.path.insert(0, str(Path.cwd()))
    with pytest.raises(ConfigError, match="which must not provide code"):
        import_dotted("net:Net", "model")
    assert not mark.exists()


def test_modules_beside_runs_are_the_users_own(mark: Path) -> None:
    write("mine/net.py", mark)
    Path("runs/first").mkdir(parents=True)
    Path("runs/first/run.json").write_text("{}")
    assert run_folder_of(Path("runs/first/chain/x")) == Path("runs/first").resolve()
    assert run_folder_of(Path("runs")) is None
    assert import_dotted("mine.net:Net", "model").__name__ == "Net"


@pytest.mark.parametrize(
    "start",
    [
        # As the installed command starts, without the current folder on the path.
        pytest.param("-Pcfrom fedmeta.cli import main; main()", marks=pytest.mark.slow),
        "-mfedmeta",
    ],
)
def test_no_file_of_the_current_folder_passes_for_a_module_that_we_import(
    start: str, mark: Path
) -> None:
    for name in ("csv", "typing_extensions", "click", "numpy", "difflib", "tomllib"):
        write(f"{name}.py", mark)
    done = subprocess.run(
        [sys.executable, start, "list", "experiments"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not mark.exists()


def test_worker_processes_do_not_look_in_the_current_folder_first(mark: Path) -> None:
    from fedmeta.federation.engines.vector.jobs import launch

    for name in ("struct", "tempfile", "socket", "pickle"):
        write(f"{name}.py", mark)
    process, connection = launch(
        "import sys, struct, tempfile, socket, pickle\n"
        "from multiprocessing.connection import Connection\n"
        "Connection(int(sys.argv[1])).send(sys.path[0])"
    )
    assert connection.recv() != ""
    assert process.wait() == 0
    connection.close()
    assert not mark.exists()


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with two parts and a module that is none."""
    folder = tmp_path / "geometry" / "shapes"
    folder.mkdir(parents=True)
    for package in (folder.parent, folder):
        (package / "__init__.py").touch()
    (folder / "red_square.py").write_text("class Side: ...\nclass RedSquare:\n    corners = 4\n")
    (folder / "ring.py").write_text("def ring(): return 0\n")
    (folder / "corners.py").write_text("raise ImportError('not asked for')\nclass _Corners: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "geometry"]:
        del sys.modules[name]


def test_a_file_in_the_folder_is_a_part_and_nothing_is_imported_to_list_it(shapes: Path) -> None:
    registry: Registry[Any] = Registry("shape", "geometry.shapes", separator="-")
    assert list(registry) == ["red-square", "ring"]
    assert "ring" in registry
    assert "red_square" not in registry
    assert not {name for name in sys.modules if name.startswith("geometry.shapes.")}
    assert registry.get("red-square").corners == 4
    assert "geometry.shapes.ring" not in sys.modules
    with pytest.raises(ConfigError, match="unknown shape 'rings': did you mean 'ring'"):
        registry.get("rings")


def test_the_parts_that_come_with_fedmeta_are_listed_without_torch() -> None:
    listing = (
        "import sys; from fedmeta.registry import Registry\n"
        "print(list(Registry('algorithm', 'fedmeta.learning.algorithms')), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    names, _, torch_too = done.stdout.strip().rpartition(" ")
    assert {"maml", "fomaml", "meta_sgd"} <= set(ast.literal_eval(names))
    assert torch_too == "False"
