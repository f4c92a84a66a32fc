"""Files are replaced atomically, and JSON is strict."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmeta.files import (
    from_later,
    one_line,
    open_own,
    parse_json,
    parse_toml,
    printable,
    read_file,
    remove_unfinished,
    to_json,
    write_atomically,
)


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
    with target.open() as reader:
        write_atomically(target, json.dumps([1, 2]).encode())
        assert json.load(reader) == [1], "who had it open reads on in the old one"
    assert json.loads(target.read_text()) == [1, 2]


def strict(text: str) -> Any:
    """The result of a strict JSON parser (RFC 8259, section 6)."""

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


def test_no_temporary_follows_a_planted_link(tmp_path: Path) -> None:
    """Whatever lies beside the target, or at it, what it leads to keeps its bytes."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("report.html.tmp", "report.html", "report.html.part", ".report.html.tmp"):
        (folder / name).symlink_to(outside)
    write_atomically(folder / "report.html", b"page")
    assert outside.read_bytes() == b"mine"
    assert not (folder / "report.html").is_symlink()
    assert (folder / "report.html").read_bytes() == b"page"


def test_leftovers_of_a_killed_write_are_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = [tmp_path / "round-000001.json", tmp_path / "notes.tmp"]
    for path in kept:
        path.write_bytes(b"")
    (tmp_path / ".fedmeta-0123456789abcdef.tmp").write_bytes(b"half")
    remove_unfinished(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_an_own_file_is_opened_by_no_link_pipe_or_folder(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder"):
        with pytest.raises(OSError, match=r"link|regular|directory|No such device"):
            open_own(tmp_path / name, os.O_WRONLY | os.O_TRUNC)
    assert (tmp_path / "outside").read_bytes() == b"mine"
    os.close(open_own(tmp_path / "new", os.O_WRONLY))
    assert (tmp_path / "new").read_bytes() == b""


def test_only_regular_files_of_a_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(11)
    for name, reason in (("pipe", "Not a regular file"), ("device", "Not a regular file")):
        with pytest.raises(OSError, match=reason):
            read_file(tmp_path / name, 10)
    with pytest.raises(OSError, match="Larger than"):
        read_file(tmp_path / "large", 10)
    assert read_file(tmp_path / "large", 11) == bytes(11)
    # A file of /proc has the size 0 and yet holds something.
    with pytest.raises(OSError, match="Larger than"):
        read_file(Path("/proc/self/status"), 10)


@pytest.mark.parametrize(
    "text", ["[" * 101 + "]" * 101, '{"a":' * 5000 + "1" + "}" * 5000, "9" * 5000, "-" + "1" * 101]
)
def test_json_that_breaks_its_parser_is_not_valid_json(text: str) -> None:
    for form in (text, text.encode()):
        with pytest.raises(ValueError, match=r"deep|digits"):
            parse_json(form)


def test_json_at_the_bounds_is_read() -> None:
    assert parse_json("[" * 100 + "]" * 100) == json.loads("[" * 100 + "]" * 100)
    assert parse_json(b'{"units": ' + b"9" * 100 + b', "x": "[[[[", "y": -1.5e3}') == {
        "units": 10**100 - 1,
        "x": "[[[[",
        "y": -1500.0,
    }


@pytest.mark.parametrize(
    "text",
    [
        ".".join(["key"] * 101) + " = 1",
        "[" + " . ".join(['"k"'] * 5000) + "]",
        "a = {" + ".".join(["b"] * 200) + " = 1}",
        "a = " + "[" * 101 + "]" * 101,
        "a = " + "9" * 4000,
        "a = " + "9" * 5000,
    ],
)
def test_toml_that_breaks_its_reader_is_refused_at_once(text: str) -> None:
    with pytest.raises(ValueError, match=r"deep|digits"):
        parse_toml(text)


def test_toml_that_only_looks_so_is_read() -> None:
    prose = "One. Two. Three, four. " * 60
    text = f'# {"." * 500}\ndescription = "{prose}"\nvalues = [{"1.5, " * 500}]\n'
    assert parse_toml(text) == {"description": prose, "values": [1.5] * 500}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("a\x9b31mb\x07", r"a\x9b31mb\x07"),
        ("exe\u202egnp", r"exe\u202egnp"),
        ("\u2066a\u2069", r"\u2066a\u2069"),
        ("hidden\U000e0041", r"hidden\U000e0041"),
        ("a\rb", r"a\x0db"),
        ("tab\tline\n", "tab\tline\n"),
        ("naïve ± 日本 می‌خواهم 👩‍🚀", "naïve ± 日本 می‌خواهم 👩‍🚀"),
    ],
)
def test_printable_text_moves_no_cursor_and_loses_no_letter(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_one_line_is_one_and_short() -> None:
    assert one_line("a\n\tb\x1b") == r"a b\x1b"
    assert one_line("x" * 500, 10) == "x" * 10 + "…"


@pytest.mark.parametrize(
    "text", ["1" * 101, "-" + "9" * 102, f'{{"a": [{"7" * 200}]}}', f"[{'1' * 5000}]"]
)
def test_a_number_of_too_many_digits_is_not_valid_json(text: str) -> None:
    for data in (text, text.encode()):
        with pytest.raises(ValueError, match="digits"):
            parse_json(data)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (f'["{"0" * 500}"]', ["0" * 500]),
        (f"[0.{'3' * 120}]", [1 / 3]),
        ("9" * 100, 10**100 - 1),
        (f'{{"{"1" * 300}": 5}}', {"1" * 300: 5}),
    ],
)
def test_numbers_of_many_digits_that_are_not_integers_are_read(text: str, value: object) -> None:
    assert parse_json(text) == parse_json(text.encode()) == value


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"format": 3, "versions": {"fedmeta": "0.9"}}, "of format 3, written by fedmeta 0.9: "),
        ({"format": 7, "versions": "none"}, "of format 7, written by fedmeta ?: "),
        ({"format": 4, "versions": {"fedmeta": "1\n2"}}, "of format 4, written by fedmeta "),
        ({"format": 2}, None),
        ({"format": "3"}, None),
        ({}, None),
    ],
)
def test_files_of_a_later_version_are_refused_in_one_line(
    info: dict[str, Any], said: str | None
) -> None:
    found = from_later(info, "format", 2)
    assert (found is None) == (said is None)
    if found and said:
        assert found.startswith(said)
        assert found.endswith("this version reads up to 2")
        assert "\n" not in found
