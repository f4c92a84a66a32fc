"""What a server knows about tasks whose data are on other machines."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmeta.errors import DataError
from fedmeta.tasks import Population, RemoteFamily, build_family, shape_of_tasks
from tests.tasks.conftest import SMALL_1, SMALL_2, real_file

POPULATION = Population(3, 0, 1)
OMNIGLOT: dict[str, Any] = {"ways": 4, "test_ways": 7, "test_alphabets": ["Sanskrit"]}


@pytest.mark.parametrize(
    ("task", "data", "files"),
    [
        ("omniglot", OMNIGLOT, (SMALL_1, SMALL_2)),
        ("shakespeare", {"length": 12}, ("tinyshakespeare/input.txt",)),
    ],
)
def test_the_shape_is_that_of_the_data(task: str, data: dict[str, Any], files: tuple[str, ...]) -> None:
    for file in files:
        real_file(file)
    assert shape_of_tasks(task, data) == build_family(task, data, POPULATION, 0).spec


def test_the_shape_needs_no_data(folders: Path) -> None:
    assert list(folders.iterdir()) == []
    omniglot, shakespeare = (shape_of_tasks(task, {}) for task in ("omniglot", "shakespeare"))
    assert omniglot is not None
    assert omniglot.input_shape == (1, 28, 28)
    assert shakespeare is not None
    assert shakespeare.vocabulary == shakespeare.outputs


def test_global_labels_are_only_known_from_the_data() -> None:
    assert shape_of_tasks("omniglot", {"labels": "global"}) is None


@pytest.mark.parametrize("task", ["digits", "sinusoid"])
def test_a_family_with_built_in_data_declares_no_shape(task: str) -> None:
    assert shape_of_tasks(task, {}) is None


def test_nothing_is_drawn_from_data_that_are_not_here() -> None:
    spec = shape_of_tasks("omniglot", {})
    assert spec is not None
    with pytest.raises(DataError, match="the data of client 2 are not on this machine"):
        RemoteFamily(spec, POPULATION).sample(2, 1, np.random.default_rng(0))
