"""A user's own arrays: each row with its own target, of its own client."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from fedmeta.errors import FedmetaError
from fedmeta.tasks import Population, build_family, data_digest, stream
from fedmeta.tasks.families.arrays import Arrays

OPTIONS: dict[str, Any] = {"path": "own", "ways": 2, "shots": 1, "queries": 2}


def family(population: Population = Population(2, 0, 1), **options: Any) -> Arrays:  # noqa: B008
    built = build_family("arrays", OPTIONS | options, population, 0)
    assert isinstance(built, Arrays)
    return built


def write(here: Path, real: bool = False) -> None:
    """Client c's row r is [10 c + r, 0, 0, 0]; its class is r % 3, its number 2 (10 c + r)."""
    (here / "own").mkdir()
    for c, name in enumerate(["anna", "bo b", "zoë"]):
        x = np.zeros((9, 2, 2), dtype=np.float32)
        x[:, 0, 0] = 10 * c + np.arange(9)
        y = 2.0 * x[:, 0, 0] if real else np.arange(9) % 3
        if c == 1:
            save_file({"x": x, "y": y}, here / "own" / f"{name}.safetensors")
        else:
            np.savez_compressed(here / "own" / f"{name}.npz", x=x, y=y)


def test_classes_are_of_one_client_and_agree_with_its_labels(here: Path) -> None:
    write(here)
    built = family()
    for client, name in enumerate(built.names):
        tasks = built.sample(client, 20, stream(client))
        assert tasks.support_x.shape == (20, 2, 2, 2)
        value = torch.cat([tasks.support_x, tasks.query_x], 1)[..., 0, 0].long()
        assert set((value // 10).unique().tolist()) == {["anna", "bo b", "zoë"].index(name)}
        label = torch.cat([tasks.support_y, tasks.query_y], 1)
        for row, own in zip(value % 10 % 3, label, strict=True):
            assert len({(int(a), int(b)) for a, b in zip(row, own, strict=True)}) == 2


def test_a_class_with_too_few_examples_for_a_task_is_not_used(here: Path) -> None:
    write(here)
    x = np.arange(40, dtype=np.float32).reshape(10, 2, 2)
    np.savez(here / "own" / "anna.npz", x=x, y=np.array([0] * 4 + [1] * 2 + [2] * 4))
    built = family()
    client = built.clients[built.names.index("anna")]
    assert sorted(client.table.flatten().tolist()) == [0, 1, 2, 3, 6, 7, 8, 9]


def test_real_targets_are_a_regression(here: Path) -> None:
    write(here, real=True)
    built = family(shots=4, queries=5)
    assert (built.spec.objective, built.spec.input_shape, built.spec.outputs) == (
        "regression",
        (2, 2),
        1,
    )
    tasks = built.sample(0, 7, stream(0))
    assert tasks.query_y.shape == (7, 5, 1)
    torch.testing.assert_close(tasks.query_y[..., 0], 2 * tasks.query_x[..., 0, 0])


def test_the_digest_covers_every_file(here: Path) -> None:
    write(here)
    first = data_digest("arrays", OPTIONS, Population(3), family)
    np.savez(here / "own" / "anna.npz", x=np.ones((9, 2, 2), dtype=np.float32), y=np.arange(9) % 3)
    assert data_digest("arrays", OPTIONS, Population(3), family) not in (first, None)


ONES = np.ones((9, 2, 2), dtype=np.float32)
LABELS = np.arange(9) % 3
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no y": ({"x": ONES}, "anna.npz: no array 'y' can be read"),
    "lengths": ({"x": ONES, "y": LABELS[:5]}, r"x is \[9, 2, 2\] and y \[5\]"),
    "shape": ({"x": ONES[:, :1], "y": LABELS}, r"bo b.*: x is float32 \[9, 2, 2\], but in .*anna"),
    "objects": ({"x": ONES, "y": np.array(["a"] * 9)}, "'y' is <U1, not numbers"),
    "pickle": ({"x": ONES, "y": np.array([{}] * 9)}, "no array 'y' can be read"),
    "nan": ({"x": ONES * np.nan, "y": LABELS}, "x holds numbers that are not finite"),
    "one-hot": ({"x": ONES, "y": np.eye(9, dtype=np.int64)}, "one label per example"),
    "kinds": ({"x": ONES, "y": LABELS + 0.5}, "y is int64"),
    "few": ({"x": ONES, "y": np.array([0] * 8 + [1])}, "client 'anna' has 1 classes of 3 or"),
}


@pytest.mark.parametrize("name", [*BAD, "broken", "cut", "empty"])
def test_unusable_input_is_one_line(name: str, here: Path, tmp_path: Path) -> None:
    write(here)
    file = here / "own" / "anna.npz"
    arrays, message = BAD.get(name, ({}, r"no array 'x' can be read|has no arrays"))
    if arrays:
        np.savez(file, **arrays)
    elif name == "empty":
        for path in (here / "own").iterdir():
            path.unlink()
    else:
        file.write_bytes(b"PK" if name == "broken" else file.read_bytes()[:100])
    with pytest.raises(FedmetaError, match=message) as caught:
        family(Population(3))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
