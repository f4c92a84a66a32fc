"""Task examples: pictures, fitted curves and texts, from a run's file and from files made by hand."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fedmeta.report.sections.examples import FILE, as_pictures, data_uri, png, read_examples


def test_a_picture_is_a_png_that_others_read() -> None:
    draw = np.random.default_rng(0)
    grey = draw.integers(0, 256, (7, 5, 1)).astype(np.uint8)
    colour = draw.integers(0, 256, (4, 9, 3)).astype(np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(png(grey)))) == grey[..., 0]).all()
    assert (np.asarray(Image.open(io.BytesIO(png(colour)))) == colour).all()


def test_ink_is_dark_whatever_its_scale() -> None:
    flat = np.zeros((1, 64))
    flat[0, 9] = 3.5
    (picture,) = as_pictures(flat) if as_pictures(flat) is not None else ()
    assert picture.shape == (8, 8, 1)
    assert picture[1, 1, 0] == 0
    assert (np.delete(picture.ravel(), 9) == 255).all()


@pytest.mark.parametrize("shape", [(2, 5), (2, 9), (2, 4, 8, 8), (2, 8, 8)])
def test_a_value_that_is_not_a_picture_is_none(shape: tuple[int, ...]) -> None:
    assert as_pictures(np.ones(shape)) is None


def test_digits_of_a_real_run(digits: Path) -> None:
    examples, problem = read_examples(digits)
    assert problem is None
    assert len(examples) == 4
    tensors = load_file(digits / FILE)
    first = examples[0]
    assert first.steps == 3
    assert [label for _, label in first.support] == sorted(tensors["0.support_y"].tolist())
    query = first.queries[1]
    assert query.label == int(tensors["0.query_y"][1])
    said = tensors["0.after"][1]
    assert query.after.label == int(said.argmax())
    assert query.after.probability == pytest.approx(float(said.max()))
    assert query.after.right == (query.after.label == query.label)
    hits = (tensors["0.before"].argmax(-1) == tensors["0.query_y"]).sum()
    assert first.right is not None
    assert (first.right[0], first.right[2]) == (int(hits), len(tensors["0.query_y"]))
    image = Image.open(io.BytesIO(base64.b64decode(query.picture.partition(",")[2])))
    assert image.size == (8, 8)
    drawn = 255.0 - np.asarray(image, dtype=float).ravel()
    assert np.corrcoef(drawn, tensors["0.query_x"][1].numpy())[0, 1] > 0.999


def test_curves_of_a_real_run(sinusoid: Path) -> None:
    examples, problem = read_examples(sinusoid)
    assert problem is None
    tensors = load_file(sinusoid / FILE)
    chart = examples[1].chart
    assert chart is not None
    before, after, queries, support = chart.series
    assert list(after.x) == pytest.approx(tensors["1.grid_x"].ravel().tolist())
    assert list(after.y) == pytest.approx(tensors["1.grid_after"].ravel().tolist())
    assert list(before.y) == pytest.approx(tensors["1.grid_before"].ravel().tolist())
    assert sorted(queries.y) == pytest.approx(sorted(tensors["1.query_y"].ravel().tolist()))
    assert len(support.x) == len(tensors["1.support_x"])


def text_run(folder: Path, about: dict[str, object]) -> Path:
    """A text of the characters "ab", newline and "<": query "ab<" then newline, said "aa<b" before."""
    truth, before = torch.tensor([[0, 1, 3, 2]]), torch.tensor([[0, 0, 3, 4]])
    tensors = {
        "0.support_x": truth,
        "0.support_y": truth.clone(),
        "0.query_x": truth.clone(),
        "0.query_y": truth.clone(),
        "0.before": torch.nn.functional.one_hot(before, 5).float(),
        "0.after": torch.nn.functional.one_hot(truth, 5).float(),
    }
    save_file(tensors, folder / FILE, {"about": json.dumps(about)})
    return folder


def test_right_and_wrong_characters_are_distinguished(tmp_path: Path) -> None:
    about = {"kind": "classification", "steps": 5, "clients": [9], "characters": "ab\n<"}
    (example,), problem = read_examples(text_run(tmp_path, about))
    assert problem is None
    (window,) = example.windows
    assert window.truth == ["a", "b", "<", "⏎"]
    assert window.before == [
        ("a", True),
        ("a", False),
        ("<", True),
        ("\N{REPLACEMENT CHARACTER}", False),
    ]
    assert all(right for _, right in window.after)
    assert example.right == (2, 4, 4)


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"kind": "regression", "steps": 1, "clients": [1]},
        {"kind": "classification", "steps": 1, "clients": []},
    ],
)
def test_another_version_is_named_and_raises_nothing(tmp_path: Path, about: dict[str, object]) -> None:
    examples, problem = read_examples(text_run(tmp_path, about))
    assert examples == [] or problem is None
    (tmp_path / FILE).write_bytes(b"nonsense")
    assert read_examples(tmp_path) == ([], "examples.safetensors is damaged")
    (tmp_path / FILE).unlink()
    assert read_examples(tmp_path) == ([], None)


def test_inputs_that_are_not_pictures_are_counted_too(tmp_path: Path) -> None:
    tensors = {
        "0.support_x": torch.zeros(2, 3),
        "0.support_y": torch.tensor([0, 1]),
        "0.query_x": torch.zeros(2, 3),
        "0.query_y": torch.tensor([0, 1]),
        "0.before": torch.tensor([[0.6, 0.4], [0.6, 0.4]]),
        "0.after": torch.tensor([[0.6, 0.4], [0.1, 0.9]]),
    }
    about = {"kind": "classification", "steps": 5, "clients": [4], "characters": None}
    save_file(tensors, tmp_path / FILE, {"about": json.dumps(about)})
    (example,), problem = read_examples(tmp_path)
    assert (problem, example.right, example.left_out) == (None, (1, 2, 2), 2)
    assert example.queries == ()
    assert data_uri(np.zeros((1, 1, 1), dtype=np.uint8)).startswith("data:image/png;base64,")
