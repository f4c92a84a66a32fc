"""What all families share: batches of tasks, and the digest of their data."""

import hashlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from fedmeta.options import Options
from fedmeta.tasks import (
    FAMILIES,
    Digits,
    Population,
    RemoteFamily,
    TaskBatch,
    TaskFamily,
    TaskSpec,
    build_family,
    data_digest,
    last_family_kept,
)
from tests.tasks.conftest import SMALL_1, SMALL_2


def tasks(labels: torch.dtype = torch.int64) -> TaskBatch:
    return TaskBatch(
        torch.ones(2, 3, 4),
        torch.ones(2, 3).to(labels),
        torch.ones(2, 1, 4),
        torch.ones(2, 1).to(labels),
    )


def test_casting_changes_real_numbers_and_no_labels() -> None:
    cast = tasks().to(torch.float64)
    assert cast.support_x.dtype == cast.query_x.dtype == torch.float64
    assert cast.support_y.dtype == cast.query_y.dtype == torch.int64
    regression = tasks(torch.float32).to(torch.float64)
    assert regression.support_y.dtype == regression.query_y.dtype == torch.float64


def test_tasks_that_have_the_type_already_are_not_copied() -> None:
    same = tasks()
    assert same.to(torch.float32) is same


class Towns:
    """A user's family: each client has the temperatures of a town."""

    Options: ClassVar[type[Options]] = Options
    spec = TaskSpec("regression", (1,), 1)

    def __init__(self, degrees: list[float]) -> None:
        self.degrees = degrees
        self.population = Population(len(degrees))

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        if np.isnan(self.degrees[client]):
            raise ValueError("no weather")
        x = torch.from_numpy(rng.normal(size=(count, 2, 1)))
        y = x + self.degrees[client]
        return TaskBatch(x, y, x, y)


def digest_of(degrees: list[float], monkeypatch: pytest.MonkeyPatch) -> str | None:
    monkeypatch.setitem(FAMILIES._parts, "towns", (__name__, "Towns"))
    family = Towns(degrees)
    return data_digest("towns", {}, family.population, lambda: family)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("degrees", "same"),
    [
        ([20.0, 21.0, 22.0], True),
        ([20.0, 21.0, 22.5], False),
        ([20.0, 21.0], False),
        ([21.0, 20.0, 22.0], False),
        ([20.0, float("nan"), 22.0], False),
    ],
)
def test_data_of_a_users_family_are_known_by_its_tasks(
    degrees: list[float], same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = digest_of([20.0, 21.0, 22.0], monkeypatch)
    assert (digest_of(degrees, monkeypatch) == first) == same


def test_the_first_and_the_last_of_many_clients_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = [0.0] * 1000
    digests = {digest_of(plain, monkeypatch)}
    digests |= {digest_of([1.0, *plain[1:]], monkeypatch), digest_of([*plain[1:], 1.0], monkeypatch)}
    assert len(digests) == 3


def unused() -> Digits:
    raise AssertionError("it can tell by itself")


@pytest.mark.parametrize(
    ("task", "files"),
    [
        ("mnist", ["mnist/mnist_5k.csv.gz"]),
        ("movielens", [f"movielens/ml-100k.{part}" for part in ("inter", "item", "user")]),
        ("shakespeare", ["tinyshakespeare/input.txt"]),
        ("omniglot", [SMALL_1, SMALL_2]),
        ("omniglot", [SMALL_2, SMALL_1]),
    ],
)
def test_files_are_recognised_by_their_content(folders: Path, task: str, files: list[str]) -> None:
    def digest() -> str | None:
        return data_digest(task, {}, Population(3), unused)

    assert digest() is None, "the data are not on this machine"
    for place, name in enumerate(files):
        (folders / name).parent.mkdir(exist_ok=True)
        (folders / name).write_bytes(b"data %d" % place)
    before = digest()
    (folders / files[0]).touch()
    assert digest() == before is not None
    (folders / files[0]).write_bytes(b"data 0.")
    assert digest() != before


def test_digits_are_known_by_their_pixels_and_labels() -> None:
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = (data.images / 16).astype("<f4").tobytes()
    expected = hashlib.sha256(pixels + data.target.astype("<i8").tobytes()).hexdigest()
    assert data_digest("digits", {}, Population(3), unused) == expected


class Inverted(Digits):
    """Digits of other data."""


def test_a_family_that_builds_on_ours_does_not_inherit_its_digest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(FAMILIES._parts, "inverted", (__name__, "Inverted"))
    plain = data_digest("digits", {}, Population(3), unused)
    family = Digits(Digits.Options(), Population(3), 0)
    assert data_digest("inverted", {}, Population(3), lambda: family) not in (plain, None)


def test_data_on_other_machines_have_no_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES._parts, "towns", (__name__, "Towns"))
    elsewhere = RemoteFamily(Towns.spec, Population(3))
    assert data_digest("towns", {}, Population(3), lambda: elsewhere) is None


def test_the_last_family_is_kept_for_checks_of_configs_with_the_same_data() -> None:
    def built(**data: int) -> TaskFamily:
        return build_family("sinusoid", data, Population(4), 0)

    with last_family_kept():
        first = built(shots=5)
        with last_family_kept():
            assert built(shots=5) is first
        assert built(shots=6) is not first
        assert built(shots=5) is not first
        assert build_family("sinusoid", {"shots": 5}, Population(4), 1) is not built(shots=5)
    assert built(shots=5) is not built(shots=5)
