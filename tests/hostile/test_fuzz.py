"""Valid files with randomly changed bytes are read correctly or refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile.corpus import REPLACEMENTS, cases, put
from tests.hostile.readers import NAMES, Reader
from tests.hostile.test_corpus import journal, run

__all__ = ["journal", "run"]

FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
KINDS = (
    *NAMES,
    "run.json",
    "metrics.jsonl",
    "clients.jsonl",
    "manifest",
    "tensors",
    "examples.safetensors",
    "explanations.json",
    "streams.json",
)


def seeds(kind: str, good: Path, journal_bytes: bytes, scratch: Path) -> list[bytes]:
    """Return small files of a kind to mutate, valid and hostile."""
    scratch.mkdir()
    found = []
    for place, case in enumerate(cases(good, journal_bytes)):
        path = scratch / str(place)
        if case.kind == kind and case.name not in REPLACEMENTS:
            case.make(path)
            if 0 < path.stat().st_size < 50_000:
                found.append(path.read_bytes())
    return found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def changed(draw: Callable[..., object], start: list[bytes]) -> bytes:
    """Return one of the files with up to four byte ranges replaced, inserted or deleted."""
    data = bytearray(draw(st.sampled_from(start)))  # type: ignore[call-overload]
    for _ in range(draw(st.integers(1, 4))):  # type: ignore[call-overload]
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.integers(0, 9))
        data[place : place + length] = draw(st.binary(max_size=9))  # type: ignore[operator, misc]
    return bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_changed_bytes_are_read_correctly_or_refused_in_one_line(
    kind: str, run: Path, journal: bytes, tmp_path: Path
) -> None:
    start = seeds(kind, run, journal, tmp_path / "seeds")
    reader = Reader(run, tmp_path / "scratch")

    @FUZZ
    @given(changed(start))
    def read(data: bytes) -> None:
        reader.clear()
        reader.read(kind, put(data))

    read()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run.json", "metrics.jsonl", "clients.jsonl", "test.jsonl"])
def test_arbitrary_json_values_are_read_correctly_or_refused_in_one_line(
    kind: str, run: Path, tmp_path: Path
) -> None:
    """Replace one value of a row or an entry by an arbitrary JSON value."""
    text = (run / kind).read_text()
    good = [json.loads(text)] if kind == "run.json" else [json.loads(line) for line in text.splitlines()]
    reader = Reader(run, tmp_path / "scratch")

    @FUZZ
    @given(st.integers(0, len(good) - 1), st.sampled_from(sorted(good[0])), JSON)
    def read(place: int, key: str, value: object) -> None:
        rows = [*good]
        rows[place] = rows[place] | {key: value}
        reader.clear()
        reader.read(kind, put("".join(json.dumps(row) + "\n" for row in rows)))

    read()
