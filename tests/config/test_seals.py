"""The user's secret and the seals made with it."""

import hashlib
import hmac
import os
import shutil
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedmeta.config import seals
from fedmeta.experiment import Config, RunFolder
from tests.experiment.helpers import TINY


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "state" / "deep" / "fedmeta"
    monkeypatch.setenv("FEDMETA_STATE", str(folder))
    return folder


def make(path: Path) -> RunFolder:
    return RunFolder.create(path, Config(**TINY), {})


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o077])
def test_only_the_user_can_read_the_secret_whatever_the_umask(
    mask: int, state: Path, tmp_path: Path
) -> None:
    with umask(mask):
        make(tmp_path / "run")
    assert {mode(one) for one in (state, state.parent, state.parent.parent)} == {0o700}
    assert [one.name for one in state.iterdir()] == ["seal.key"]
    assert mode(state / "seal.key") == 0o600
    assert len((state / "seal.key").read_bytes()) == 32


def test_a_seal_is_the_hmac_of_the_config(state: Path, tmp_path: Path) -> None:
    path = make(tmp_path / "run").path
    message = b"fedmeta config\0" + (path / "config.toml").read_bytes()
    expected = hmac.new((state / "seal.key").read_bytes(), message, hashlib.sha256).hexdigest()
    assert (path / "config.seal").read_text() == f"{expected}\n"


def test_a_folder_that_was_moved_or_copied_is_made_here(state: Path, tmp_path: Path) -> None:
    path = make(tmp_path / "run").path
    shutil.copytree(path, tmp_path / "elsewhere" / "copy")
    path.rename(tmp_path / "moved")
    assert seals.made_here(tmp_path / "elsewhere" / "copy")
    assert seals.made_here(tmp_path / "moved")


def test_a_folder_that_was_edited_or_has_no_seal_or_anothers_is_not(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited, old, foreign = (make(tmp_path / name).path for name in ("edited", "old", "foreign"))
    with (edited / "config.toml").open("a") as file:
        file.write("# and more\n")
    (old / "config.seal").unlink()
    assert not seals.made_here(edited)
    assert not seals.made_here(old)
    assert seals.made_here(foreign)
    monkeypatch.setenv("FEDMETA_STATE", str(tmp_path / "another user's"))
    assert not seals.made_here(foreign)
    make(tmp_path / "own")
    assert not seals.made_here(foreign)


@pytest.mark.parametrize("content", [b"", b"\n" * 99, b"0" * 10**6, b"\xff\x00", "ſ".encode() * 32])
def test_a_seal_may_hold_anything(state: Path, tmp_path: Path, content: bytes) -> None:
    path = make(tmp_path / "run").path
    (path / "config.seal").write_bytes(content)
    assert not seals.made_here(path)
    (path / "config.seal").unlink()
    os.mkfifo(path / "config.seal")
    assert not seals.made_here(path)


def test_our_own_change_of_a_config_leaves_it_made_here_and_of_anothers_does_not(
    state: Path, tmp_path: Path
) -> None:
    ours, theirs = make(tmp_path / "ours"), make(tmp_path / "theirs")
    (theirs.path / "config.seal").unlink()
    longer = Config(**TINY | {"rounds": 9})
    for folder in (ours, theirs):
        folder.replace_config(longer)
        assert folder.config == longer
    assert seals.made_here(ours.path)
    assert not seals.made_here(theirs.path)


def test_a_crash_while_a_config_is_changed_leaves_it_made_here(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "run")
    written: list[str] = []
    from fedmeta.experiment import folder as module

    def stopped(path: Path, _: bytes) -> None:
        written.append(path.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_atomically", stopped)
    with pytest.raises(KeyboardInterrupt):
        folder.replace_config(Config(**TINY | {"rounds": 9}))
    assert written == ["config.toml"]
    assert folder.config.rounds == TINY["rounds"]
    assert seals.made_here(folder.path)


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o602, 0o610])
def test_a_secret_that_others_can_read_or_write_is_not_used(
    bits: int, state: Path, tmp_path: Path
) -> None:
    path = make(tmp_path / "run").path
    (state / "seal.key").chmod(bits)
    assert not seals.made_here(path)
    assert "others may have read or written it" in str(seals.problem())
    assert not (make(tmp_path / "new").path / "config.seal").exists()


def _link(key: Path) -> None:
    (key.parent / "real").write_bytes(bytes(32))
    (key.parent / "real").chmod(0o600)
    key.symlink_to("real")


@pytest.mark.parametrize("plant", [_link, os.mkfifo, os.mkdir, Path.touch])
def test_a_planted_secret_is_not_used(plant: object, state: Path, tmp_path: Path) -> None:
    state.mkdir(parents=True)
    plant(state / "seal.key")  # type: ignore[operator]
    path = make(tmp_path / "run").path
    assert not seals.made_here(path)
    assert str(seals.problem()).startswith(f"{state / 'seal.key'}: ")


@pytest.mark.parametrize("place", ["/dev/null/state", "/proc/fedmeta", "{file}"])
def test_without_a_folder_for_the_secret_runs_are_made_with_a_note(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEDMETA_STATE", place.format(file=tmp_path / "file"))
    path = make(tmp_path / "run").path
    assert not seals.made_here(path)
    said = seals.problem()
    assert said
    assert "\n" not in said
    assert said.endswith("folders that are made now will not count as made here")


def test_all_who_make_the_first_folder_at_once_have_one_secret(state: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: make(tmp_path / str(number)).path, range(8)))
    assert all(seals.made_here(path) for path in made)
    assert [one.name for one in state.iterdir()] == ["seal.key"]


def test_the_state_folder_is_that_of_the_standard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDMETA_STATE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", "/home/me")
    for value, expected in (
        ("/var/me", "/var/me/fedmeta"),
        ("", "/home/me/.local/state/fedmeta"),
        # A relative one is to be ignored: it would lead into a stranger's folder.
        ("runs/theirs", "/home/me/.local/state/fedmeta"),
    ):
        monkeypatch.setenv("XDG_STATE_HOME", value)
        assert seals.state_folder() == Path(expected)
    monkeypatch.setattr("sys.platform", "darwin")
    assert seals.state_folder() == Path("/home/me/Library/Application Support/fedmeta")
