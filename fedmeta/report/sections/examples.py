"""Test tasks with their inputs as pictures and the model's predictions."""

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from fedmeta.files import one_line, parse_json, read_file
from fedmeta.report.charts import Chart, Mark, Series
from fedmeta.report.page import Example, Guess, Query, Section, Window, figures_of
from fedmeta.report.read import RunFiles
from fedmeta.report.sections import ReportSection

FILE = "examples.safetensors"
MOST_BYTES = 1 << 26
MOST_QUERIES = 20
MOST_WINDOWS = 4
MOST_PICTURES = 60
"""Pictures of a task's support examples, and of its queries, that an explanation shows."""
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_SIGNS = {"\n": "⏎", " ": "·"}

Values = NDArray[np.float64]


class Examples(ReportSection):
    """A few test tasks with the model's predictions."""

    order = 70

    @staticmethod
    @override
    def of_run(run: RunFiles) -> Section | None:
        examples, problem = read_examples(run.path)
        if not examples and problem is None:
            return None
        text = "Tasks of test clients that are not part of the test, with the model's predictions."
        charts = [one.chart for one in examples if one.chart is not None]
        return Section(
            key="examples",
            title="Task examples",
            text=text if examples else "",
            warning=problem or "",
            examples=[one for one in examples if one.chart is None],
            figures=figures_of(charts),
        )


def read_examples(folder: Path) -> tuple[list[Example], str | None]:
    """Return a run's example tasks, and what is wrong with the file; no file is no problem."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = folder / FILE
    if not path.exists():
        return [], None
    try:
        data = read_file(path, MOST_BYTES)
        tensors = load(data)
        size = int.from_bytes(data[:8], "little")
        about = parse_json(parse_json(data[8 : 8 + size]).get("__metadata__", {})["about"])
        return [_example(about, tensors, i) for i in _numbers(tensors)], None
    except (OSError, SafetensorError):
        return [], f"{FILE} is damaged"
    except Exception as error:
        # The file may come from anyone and hold anything; the rest of the report does not need it.
        return [], f"{FILE} is of another version ({type(error).__name__}: {one_line(error, 200)})"


def read_pictures(folder: Path) -> list[tuple[list[str], list[str]] | None]:
    """Return the pictures of the support examples and of the first queries of each example task.

    None for a task whose inputs are no pictures; an empty list if the file cannot be read.
    """
    from safetensors.numpy import load

    try:
        tensors = load(read_file(folder / FILE, MOST_BYTES))
        return [_task_pictures(tensors, number) for number in _numbers(tensors)]
    except Exception:
        # It may be missing or a stranger's; the section about examples says so.
        return []


def _task_pictures(tensors: Mapping[str, Values], number: int) -> tuple[list[str], list[str]] | None:
    support, queries = (tensors[f"{number}.{half}_x"] for half in ("support", "query"))
    drawn = as_pictures(np.concatenate([support, queries]).astype(float))
    if drawn is None or tensors[f"{number}.query_y"].ndim != 1:
        return None
    count = len(support)
    shown = [drawn[: min(count, MOST_PICTURES)], drawn[count : count + MOST_PICTURES]]
    first, second = ([data_uri(one) for one in half] for half in shown)
    return first, second


def _numbers(tensors: Mapping[str, Any]) -> list[int]:
    return sorted({int(key.split(".", 1)[0]) for key in tensors})


def _example(about: Mapping[str, Any], tensors: Mapping[str, Values], number: int) -> Example:
    prefix = f"{number}."
    task = {k.removeprefix(prefix): value for k, value in tensors.items() if k.startswith(prefix)}
    client, steps = int(about["clients"][number]), int(about["steps"])
    if about["kind"] == "regression":
        return Example(client, steps, chart=_regression(task, number, client, steps))
    if task["query_y"].ndim == 2:
        return _text(task, about.get("characters") or "", client, steps)
    return _pictures(task, client, steps)


def _pictures(task: Mapping[str, Values], client: int, steps: int) -> Example:
    support, queries = task["support_x"], task["query_x"]
    labels = [int(label) for label in task["query_y"]]
    guesses = [_guesses(task[when], labels) for when in ("before", "after")]
    right = (*(sum(one.right for one in column) for column in guesses), len(labels))
    drawn = as_pictures(np.concatenate([support, queries]).astype(float))
    if drawn is None:
        return Example(client, steps, right=(right[0], right[1], right[2]), left_out=len(labels))
    pictures = [data_uri(one) for one in drawn]
    shown = [
        Query(picture, label, before, after)
        for picture, label, before, after in zip(pictures[len(support) :], labels, *guesses, strict=True)
    ]
    by_label = sorted(
        zip(pictures, (int(y) for y in task["support_y"]), strict=False), key=lambda p: p[1]
    )
    return Example(
        client,
        steps,
        support=by_label,
        queries=shown[:MOST_QUERIES],
        right=(right[0], right[1], right[2]),
        left_out=max(len(shown) - MOST_QUERIES, 0),
    )


def _guesses(probabilities: Values, labels: Sequence[int]) -> list[Guess]:
    best = probabilities.argmax(-1)
    return [
        Guess(int(label), float(row[label]), int(label) == truth)
        for row, label, truth in zip(probabilities, best, labels, strict=True)
    ]


def _text(task: Mapping[str, Values], characters: str, client: int, steps: int) -> Example:
    truth = task["query_y"].astype(int)
    before, after = (task[when].argmax(-1) for when in ("before", "after"))
    if truth.ndim != 2 or before.shape != truth.shape or after.shape != truth.shape:
        raise ValueError("texts, and predictions of another shape")
    windows = [
        Window(_signs(t, characters), _marked(b, t, characters), _marked(a, t, characters))
        for t, b, a in zip(truth, before, after, strict=True)
    ]
    right = (int((before == truth).sum()), int((after == truth).sum()), truth.size)
    left_out = max(len(windows) - MOST_WINDOWS, 0)
    return Example(client, steps, windows=windows[:MOST_WINDOWS], right=right, left_out=left_out)


def _signs(tokens: Values, characters: str) -> list[str]:
    found = (characters[t] if 0 <= t < len(characters) else _UNKNOWN for t in map(int, tokens))
    return [_SIGNS.get(one, one) for one in found]


def _marked(tokens: Values, truth: Values, characters: str) -> list[tuple[str, bool]]:
    return list(zip(_signs(tokens, characters), (bool(ok) for ok in tokens == truth), strict=True))


def _regression(task: Mapping[str, Values], number: int, client: int, steps: int) -> Chart:
    title = f"A task of client {client}, before and after {steps} steps"
    key = f"example-{number}"
    if "grid_x" not in task:
        return _predicted(task, key, title)
    grid = task["grid_x"]
    curves = [
        _curve("before adaptation", (grid, task["grid_before"]), 1, dash=1),
        _curve(f"after {steps} steps", (grid, task["grid_after"]), 0),
        _curve("queries, the truth", (task["query_x"], task["query_y"]), 6, "points"),
        _curve("support", (task["support_x"], task["support_y"]), 2, "points"),
    ]
    note = "The model saw the support points alone; queries lie on the truth."
    return Chart(key, title, "x", "y", curves, note)


def _curve(
    name: str, points: tuple[Values, Values], colour: int, mark: Mark = "line", dash: int = 0
) -> Series:
    xs, ys = (column.reshape(len(column), -1)[:, 0] for column in points)
    order = np.argsort(xs, kind="stable")
    values = [float(v) if np.isfinite(v) else None for v in ys[order]]
    return Series(name, [float(v) for v in xs[order]], values, mark=mark, colour=colour, dash=dash)


def _predicted(task: Mapping[str, Values], key: str, title: str) -> Chart:
    truth = task["query_y"]
    series = [
        _curve("before adaptation", (truth, task["before"]), 1, "points"),
        _curve("after adaptation", (truth, task["after"]), 0, "points"),
        _curve("the truth", (truth, truth), 6),
    ]
    return Chart(key, title, "true value of a query", "predicted value", series)


_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _COLOUR = 0, 2


def as_pictures(inputs: NDArray[np.float64]) -> NDArray[np.uint8] | None:
    """Return inputs as pictures, dark ink on white where they are grey.

    Args:
        inputs: ``[N, pixels]`` of a square, ``[N, 1, H, W]`` or ``[N, 3, H, W]``; the lowest and the
            highest value of all become the ends of the scale.

    Returns:
        ``[N, H, W, 1]`` or ``[N, H, W, 3]``; None if inputs of this shape are no pictures.
    """
    images = inputs
    if inputs.ndim == 2:
        side = isqrt(inputs.shape[1])
        if side < 4 or side * side != inputs.shape[1]:
            return None
        images = inputs.reshape(-1, 1, side, side)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not np.isfinite(images).all():
        return None
    low, high = float(images.min()), float(images.max())
    scaled = (images - low) / (high - low) if high > low else np.zeros_like(images)
    if images.shape[1] == 1:
        scaled = 1 - scaled
    return np.ascontiguousarray((scaled * 255).round().astype(np.uint8).transpose(0, 2, 3, 1))


def data_uri(picture: NDArray[np.uint8]) -> str:
    """Return a picture ``[H, W, 1 or 3]`` as the ``data:`` address of a PNG file."""
    return f"data:image/png;base64,{base64.b64encode(png(picture)).decode()}"


def png(picture: NDArray[np.uint8]) -> bytes:
    """Return a picture ``[H, W, 1 or 3]`` as a PNG file (W3C, PNG third edition, sections 5 and 11)."""
    height, width, channels = picture.shape
    kind = _GREY if channels == 1 else _COLOUR
    head = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in picture)
    return (
        _SIGNATURE + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    )


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
