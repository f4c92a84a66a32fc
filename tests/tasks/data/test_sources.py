import shlex
from pathlib import Path

import pytest

from fedmeta.errors import ConfigError, DataError
from fedmeta.tasks.data.sources import (
    cache_folder,
    how_to_fetch,
    locate,
    sha256_of,
    source_named,
    sources,
    where,
)
from tests.tasks.conftest import real_file


def put(folder: Path, path: str) -> Path:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(str(folder))
    return folder / path


def test_the_named_folder_comes_before_the_cache(folders: Path) -> None:
    path = "tinyshakespeare/input.txt"
    assert where("shakespeare") is None
    kept = put(cache_folder(), path)
    assert locate(path, "shakespeare") == kept
    assert where("shakespeare") == cache_folder()
    named = put(folders, path)
    assert locate(path, "shakespeare") == named
    assert where("shakespeare") == folders


def test_a_missing_file_is_named_with_both_folders_and_the_command(folders: Path) -> None:
    with pytest.raises(DataError, match="`fedmeta data fetch omniglot`") as refusal:
        locate("omniglot/x.zip", "omniglot")
    assert str(folders) in str(refusal.value)
    assert str(cache_folder()) in str(refusal.value)


@pytest.mark.parametrize("name", list(sources()))
def test_the_command_for_a_corrupt_file_puts_a_sound_one_in_its_place(folders: Path, name: str) -> None:
    """`fetch` writes each file to its official path in the folder it is given (see test_fetch)."""
    folder = folders / "my data"
    file = source_named(name).files[-1]
    command = shlex.split(how_to_fetch(name, corrupt=folder / file.path).split("`")[1])
    assert command[:-1] == ["fedmeta", "data", "fetch", name, "--folder"]
    assert Path(command[-1]) == folder


def test_an_unknown_data_set_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="unknown data set 'omniglott': did you mean 'omniglot'"):
        source_named("omniglott")


def test_all_addresses_are_official_and_encrypted() -> None:
    files = [file for source in sources().values() for file in source.files]
    official = (
        "https://github.com/brendenlake/omniglot/",
        "https://raw.githubusercontent.com/karpathy/",
        "https://pypi.org/project/mlxtend/",
        "https://pypi.org/project/recbole/",
        "https://pypi.org/project/aeon/",
        "https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/",
        "https://codeload.github.com/Jakobovski/free-spoken-digit-dataset/zip/",
        "https://archive.ics.uci.edu/ml/machine-learning-databases/parkinsons/",
    )
    assert all(file.url.startswith(official) for file in files)
    assert all(len(file.sha256) == 64 for file in files)


@pytest.mark.parametrize("name", ["mnist", "movielens", "omniglot", "shakespeare"])
def test_size_and_sum_are_those_of_the_real_files(name: str) -> None:
    for file in source_named(name).files:
        path = real_file(file.path)
        assert path.stat().st_size == file.size
        assert sha256_of(path) == file.sha256
