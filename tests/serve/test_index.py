"""Which folders may be read, and that no others are."""

import os
from pathlib import Path

import pytest

from fedmeta.errors import UsageError
from fedmeta.report.read import require_runs
from fedmeta.serve.index import Index, UnknownError
from tests.serve.serving import copy


def test_runs_are_found_in_the_folder_and_one_level_below(gallery: Path) -> None:
    entries = Index(gallery).entries()
    assert entries["digits-001"].kind == "run"
    assert entries["compare-quickstart"].kind == "comparison"
    below = entries["compare-quickstart/federated-seed0"]
    assert (below.kind, below.parent) == ("run", "compare-quickstart")


@pytest.mark.parametrize(
    "id_",
    ["", ".", "..", "../outside", "digits-001/..", "./digits-001", "digits-001/", "/etc/passwd",
     "linked", "linked/config.toml", "digits-001/run.json", "digits-001\0"],
)  # fmt: skip
def test_an_unknown_id_is_an_error(gallery: Path, id_: str) -> None:
    with pytest.raises(UnknownError, match="no such run"):
        Index(gallery).find(id_)


def test_a_run_is_found_the_moment_it_is_made(own: Path) -> None:
    index = Index(own)
    for number in range(5):
        name = f"new-{number}"
        assert name not in index.entries()
        copy(own / "one", own / name)
        assert index.find(name).path == own / name


def test_a_folder_that_is_linked_from_elsewhere_is_not_listed(gallery: Path) -> None:
    assert (gallery / "linked" / "run.json").exists()
    assert not [id_ for id_ in Index(gallery).entries() if id_.startswith("linked/") or id_ == "linked"]


def test_a_file_that_is_linked_from_elsewhere_spoils_its_run(gallery: Path) -> None:
    assert Index(gallery).entries()["linked-file"].problem == (
        "report.html is a link that leads out of the folder of runs"
    )


def test_a_link_within_the_folder_may_be_read(own: Path) -> None:
    (own / "again").symlink_to(own / "one")
    (own / "one" / "report.html").symlink_to(own / "one" / "run.json")
    entries = Index(own).entries()
    assert entries["again"].problem is None
    assert entries["one"].problem is None


def test_a_pipe_in_the_place_of_a_file_blocks_nothing(own: Path) -> None:
    (own / "one" / "run.lock").unlink()
    os.mkfifo(own / "one" / "run.lock")
    assert Index(own).entries()["one"].problem == "run.lock is not a file"


def test_cyclic_links_are_skipped(own: Path) -> None:
    (own / "a").symlink_to(own / "b")
    (own / "b").symlink_to(own / "a")
    (own / "up").symlink_to(own)
    assert list(Index(own).entries()) == ["one"]


def test_a_stamp_changes_with_any_file_and_with_nothing_else(own: Path) -> None:
    before = Index(own).entries()["one"].stamp
    assert Index(own).entries()["one"].stamp == before
    (own / "one" / "report.html").write_text("new")
    assert Index(own).entries()["one"].stamp != before


def test_a_run_is_named_by_its_path_however_that_is_written(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index(own)
    assert index.at(own / "other" / ".." / "one") == index.entries()["one"]
    assert index.at(own / ".." / "one") is None
    monkeypatch.chdir(own.parent)
    found = Index(Path("runs")).at(own / "one")
    assert found is not None
    assert found.id == "one"


def test_a_name_that_is_not_text_is_still_listed(own: Path) -> None:
    copy(own / "one", Path(os.fsdecode(os.fsencode(own) + b"/caf\xe9")))
    assert sorted(Index(own).entries()) == ["caf\\xe9", "one"]


def test_no_folder_and_a_run_in_its_place_are_refused(own: Path) -> None:
    with pytest.raises(UsageError, match=r"no folder of runs at '.*/none'"):
        require_runs(own / "none")
    with pytest.raises(UsageError, match="is itself a run: serve the folder above it"):
        require_runs(own / "one")
