"""A file is replaced whole or not at all, and JSON is JSON."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmeta.files import to_json, write_atomically


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """A real out-of-space error: a process that may write no file beyond 64 KiB."""
    target = tmp_path / "file"
    target.write_bytes(b"old")
    code = (
        "import resource, signal, sys, pathlib\n"
        "from fedmeta.files import write_atomically\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try:\n    write_atomically(pathlib.Path(sys.argv[1]), b'n' * 100_000)\n"
        "except OSError as error:\n    print(error.errno)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, str(target)], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "27", "EFBIG"
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_writing_replaces_the_file_whole(tmp_path: Path) -> None:
    target = tmp_path / "file.json"
    write_atomically(target, json.dumps([1]).encode())
    write_atomically(target, json.dumps([1, 2]).encode())
    assert json.loads(target.read_text()) == [1, 2]


def strict(text: str) -> Any:
    """What a parser reads that takes JSON at its word (RFC 8259, section 6)."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": math.nan, "b": [math.inf, -math.inf, 1.5]}, {"a": None, "b": [None, None, 1.5]}),
        ((1, ("x", math.nan), {"y": {"z": math.inf}}), [1, ["x", None], {"y": {"z": None}}]),
        ({3: np.float64("nan"), "deep": [[[math.nan]]]}, {"3": None, "deep": [[[None]]]}),
        (math.nan, None),
    ],
)
def test_json_has_null_for_numbers_that_are_not_finite(value: Any, expected: Any) -> None:
    assert strict(to_json(value)) == expected
    assert strict(to_json(value, indent=1)) == expected


def test_json_of_finite_values_is_that_of_the_standard_library() -> None:
    value = {"b": [1, 2.5, None, True, "ü"], "a": {"x": ()}, 7: 1e300}
    assert to_json(value) == json.dumps(value)
    assert to_json(value, separators=(",", ":")) == json.dumps(value, separators=(",", ":"))
