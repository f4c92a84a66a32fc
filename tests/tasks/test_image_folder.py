"""A folder of images with a subfolder per class is listed completely or refused by name."""

from pathlib import Path

import pytest

from fedmeta.errors import DataError
from fedmeta.tasks.image_folder import list_folder, list_labelled


def make(folder: Path, *files: str) -> Path:
    """Empty files under a folder; a name that ends in a slash is a folder."""
    folder.mkdir(exist_ok=True)
    for name in files:
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return folder


def test_sub_folders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = make(tmp_path / "support", "b/2.png", "a/9.png", "b/1.png", "b/10.png")
    listed = list_folder(folder)
    assert [str(file.relative_to(folder)) for file in listed.files] == [
        "a/9.png",
        "b/1.png",
        "b/10.png",
        "b/2.png",
    ]
    assert listed.labels == ("a", "b", "b", "b")


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    listed = list_folder(make(tmp_path / "query", "y.png", "x.jpg"))
    assert [file.name for file in listed.files] == ["x.jpg", "y.png"]
    assert listed.labels is None


def test_hidden_files_are_skipped_and_reported(tmp_path: Path) -> None:
    folder = make(tmp_path / "support", ".DS_Store", "a/.hidden", "a/1.png", ".git/x")
    listed = list_folder(folder)
    assert [file.name for file in listed.files] == ["1.png"]
    assert {file.name for file in listed.ignored} == {".DS_Store", ".hidden", ".git"}


def test_links_are_followed(tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", "1.png", "2.png")
    folder = make(tmp_path / "support", "a/1.png")
    (folder / "b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / "a" / "3.png").symlink_to(tmp_path / "elsewhere" / "2.png")
    listed = list_folder(folder)
    assert [f"{file.parent.name}/{file.name}" for file in listed.files] == [
        "a/1.png",
        "a/3.png",
        "b/1.png",
        "b/2.png",
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "has no images"),
        ((".hidden",), "has no images (hidden ones: 1)"),
        (("a/1.png", "b/"), "b is a class without images"),
        (("a/1.png", "b/.hidden"), "b is a class without images (hidden ones: 1)"),
        (("a/1.png", "readme.txt"), "both class folders ('a') and files ('readme.txt')"),
        (("a/1.png", "a/deeper/2.png"), "deeper is a folder within a class"),
    ],
)
def test_a_folder_that_could_be_read_in_two_ways_is_refused(
    tmp_path: Path, files: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        list_folder(make(tmp_path / "folder", *files))
    assert message in str(caught.value)


def test_a_path_that_is_not_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder at"):
        list_folder(tmp_path / "none")
    make(tmp_path, "file.png")
    with pytest.raises(DataError, match=r"file\.png is a file, not a folder"):
        list_folder(tmp_path / "file.png")
    with pytest.raises(DataError, match=rf"no folder at '.*': did you mean '{tmp_path}/file\.png'\?"):
        list_folder(tmp_path / "fil.png")


def test_mistakes_in_the_folders_name_the_option(tmp_path: Path) -> None:
    make(tmp_path / "letters", "a/1.png", "b/1.png")
    make(tmp_path / "flat", "1.png")
    make(tmp_path / "empty")
    make(tmp_path / "other", "a/1.png", "c/1.png")
    for support, query, message in (
        ("empty", "flat", "--support: {0}/empty has no images"),
        ("flat", "flat", "--support: {0}/flat has no subfolders: it needs one for each class"),
        ("leters", "flat", "--support: no folder at '{0}/leters': did you mean '{0}/letters'?"),
        ("letters", "empty", "--query: {0}/empty has no images"),
        ("letters", "flat/1.png", "--query: {0}/flat/1.png is a file, not a folder"),
        ("letters", "other", "--query: the class 'c' is not in {0}/letters: choose from: a, b"),
    ):
        with pytest.raises(DataError) as refused:
            list_labelled(tmp_path / support, tmp_path / query)
        assert str(refused.value) == message.format(tmp_path)
    examples, asked = list_labelled(tmp_path / "letters", tmp_path / "flat")
    assert (examples.labels, asked.labels) == (("a", "b"), None)


@pytest.mark.parametrize("name", ["u\u0308", "\u00fc ", "\ufeff\u00fc", "\u00fc\u200d"])
def test_classes_are_named_as_they_are_seen(name: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "support", f"{name}/1.png", "a/1.png")
    assert sorted(list_folder(folder).labels or ()) == ["a", "\u00fc"]
    make(folder, "\u00fc/2.png")
    with pytest.raises(DataError, match="two class folders that look alike: '") as refusal:
        list_folder(folder)
    assert "\\xfc" in str(refusal.value)
