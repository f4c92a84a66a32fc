"""How text files are decoded and described."""

import os
from pathlib import Path

import pytest

from fedmeta.errors import DataError
from fedmeta.tasks.data.text_files import TextFile, read_text, visible


def read(path: Path, data: bytes) -> TextFile:
    (path / "t.txt").write_bytes(data)
    return read_text(path / "t.txt")


@pytest.mark.parametrize(
    ("data", "encoding", "text"),
    [
        (b"", "UTF-8", ""),
        (b"plain", "UTF-8", "plain"),
        ("naïve — “quoted”".encode(), "UTF-8", "naïve — “quoted”"),
        (b"na\xefve \x96 \x93quoted\x94", "Windows-1252", "naïve – “quoted”"),
        (b"\xc9tude, d\xe9j\xe0 vu", "Windows-1252", "Étude, déjà vu"),
        ("Ελένη: ναι".encode("utf-16-be"), "UTF-16-BE", None),
        ("Helen: yes\n".encode("utf-16-le"), "UTF-16-LE", "Helen: yes\n"),
    ],
)
def test_the_bytes_tell_the_encoding(
    tmp_path: Path, data: bytes, encoding: str, text: str | None
) -> None:
    if text is None:
        # Greek in UTF-16 has no zero bytes to know it by: refused, and not read as something else.
        with pytest.raises(DataError, match=r"t\.txt"):
            read(tmp_path, data)
        return
    found = read(tmp_path, data)
    assert (found.encoding, found.mark, found.text) == (encoding, False, text)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        # One byte of a letter was lost; other letters say that it was UTF-8.
        ("über\nschön\ntür".encode().replace("ö".encode(), b"\xc3"), "not UTF-8 as it seemed: line 2"),
        (b"\xff\xfea\0b", "not UTF-16-LE as it seemed: line 1"),
        (b"caf\xe9\n\x81\n", "not Windows-1252 as it seemed: line 2"),
        (b"GIF89a\0\0\1\0\0", "zero bytes: it is not text"),
    ],
)
def test_undecodable_text_is_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as refusal:
        read(tmp_path, data)
    assert "t.txt" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(DataError, match="cannot be read: "):
            read_text(path)


def test_oddities_are_counted(tmp_path: Path) -> None:
    text = "\ufeffa\u200bb\u200bc\u00ad\r\nd\u00a0e\tf\rg\u2028 n\u0303"
    found = read(tmp_path, text.encode())
    assert found.text == "abc\nd e f\ng\n ñ"
    assert found.mark
    assert found.line_ends == {"CR LF": 1, "CR": 1, "LS": 1}
    assert found.invisible == {"zero width space": 2, "soft hyphen": 1}
    assert found.spaces == {"no-break space": 1, "u+0009": 1}
    assert found.composed
    assert len(found.odd) == 5
    assert read(tmp_path, "plain — text\nwith é\n".encode()).odd == ()


def test_signs_that_show_stay(tmp_path: Path) -> None:
    # Arabic number sign and end of ayah are format characters that are drawn.
    assert read(tmp_path, "\u0600\u0661 \u06dd".encode()).text == "\u0600\u0661 \u06dd"


def test_names_are_compared_as_they_are_seen() -> None:
    for name in ("cafe\u0301", " caf\u00e9", "ca\u200bf\u00e9\u00a0", "caf\u00e9\ufeff"):
        assert visible(name) == "caf\u00e9"
    assert visible("two\t\u2003words") == "two words"


@pytest.mark.parametrize(
    ("raw", "text", "ends"),
    [
        ("a\r\r\rb", "a\n\n\nb", {"CR": 3}),
        ("a\r\r\nb\r", "a\nb\n", {"CR CR LF": 1, "CR": 1}),
        ("\r\n\n\r\u2028", "\n\n\n\n", {"CR LF": 1, "LF": 1, "CR": 1, "LS": 1}),
    ],
)
def test_line_ends_are_distinguished(tmp_path: Path, raw: str, text: str, ends: dict[str, int]) -> None:
    found = read(tmp_path, raw.encode())
    assert (found.text, found.line_ends) == (text, ends)


def test_a_million_carriage_returns_take_no_longer_than_line_feeds(tmp_path: Path) -> None:
    """They took a time that grows with the square of their number: hours."""
    assert read(tmp_path, b"\r" * 1_000_000).text == "\n" * 1_000_000


def test_every_invisible_character_at_once(tmp_path: Path) -> None:
    """4,096 kinds, each of which was once looked for in the whole text."""
    tags = "".join(map(chr, range(0xE0000, 0xE1000)))
    found = read(tmp_path, f"A{tags * 30}B\u00a0C".encode())
    assert found.text == "AB C"
    assert sum(found.invisible.values()) == 30 * 4096
    assert found.spaces == {"no-break space": 1}


def test_a_pipe_and_a_file_of_5_gb_are_not_texts(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(5 << 30)
    for name, said in (("pipe", "Not a regular file"), ("large", "Larger than 32 MiB")):
        with pytest.raises(DataError, match=f"cannot be read: {said}"):
            read_text(tmp_path / f"{name}.txt")


def test_a_letter_with_a_thousand_accents_is_not_a_text(tmp_path: Path) -> None:
    """To order them takes a time that grows with the square of their number."""
    for marks in ("\u0301" * 1000, "\u0301\u0316" * 100_000):
        with pytest.raises(DataError, match="accents on one letter"):
            read(tmp_path, f"A:\ne{marks}\n".encode())
    kept = read(tmp_path, ("e\u0301\u0316" * 500).encode())
    assert kept.text == "\u00e9\u0316" * 500
