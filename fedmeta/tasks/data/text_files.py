"""Reads text files: decoding, line ends, and invisible characters."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fedmeta.errors import DataError
from fedmeta.files import read_file, reason

# The longer mark first: that of UTF-32 LE begins with that of UTF-16 LE.
_MARKS = (
    (b"\xef\xbb\xbf", "UTF-8"),
    (b"\xff\xfe\0\0", "UTF-32-LE"),
    (b"\0\0\xfe\xff", "UTF-32-BE"),
    (b"\xff\xfe", "UTF-16-LE"),
    (b"\xfe\xff", "UTF-16-BE"),
)
# A CR LF that was converted twice is CR CR LF.
# The pattern is possessive: looking for a line feed behind each of many carriage returns would take
# quadratic time.
_LINE_END = re.compile("\r++\n?|[\n\x85\u2028\u2029]")
_LINE_ENDS = {"\n": "LF", "\r": "CR", "\x85": "NEL", "\u2028": "LS", "\u2029": "PS"}
# Format characters (category Cf) that are visible, such as signs over or before a number.
_SHOWN = re.compile(
    "[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd\U00013430-\U0001343f]"
)
# Invisible characters of other categories: Unicode's Default_Ignorable_Code_Point.
_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    "\U000e0000-\U000e0fff]"
)
_EXAMPLES = 4
_MOST_MARKS = 100
MOST_BYTES = 1 << 25
"""Bytes of a text; all of Shakespeare has 5.5 million."""


@dataclass(frozen=True)
class TextFile:
    """A text file, and how it was normalised.

    Attributes:
        text: The visible text: lines end in LF, spaces are plain, invisible characters are removed, and
            letters with accents are composed (NFC).
        encoding: The encoding, such as ``UTF-8`` or ``Windows-1252``.
        mark: Whether it begins with a byte-order mark.
        line_ends: Number of line ends of each kind, such as ``{"CR LF": 12}``.
        invisible: Number of invisible characters removed, by name.
        spaces: Number of characters replaced by a plain space, by name.
        composed: Whether letters had to be composed.
    """

    text: str
    encoding: str
    mark: bool
    line_ends: dict[str, int]
    invisible: dict[str, int]
    spaces: dict[str, int]
    composed: bool

    @property
    def odd(self) -> tuple[str, ...]:
        """Differences from a plain UTF-8 file with LF, one phrase each."""
        found = []
        if self.encoding != "UTF-8":
            found.append(f"read as {self.encoding}")
        if self.mark:
            found.append("begins with a byte-order mark")
        if set(self.line_ends) - {"LF"}:
            found.append(f"lines end in {_count(self.line_ends)}")
        if self.invisible:
            found.append(f"invisible characters left out: {_count(self.invisible)}")
        if self.spaces:
            found.append(f"read as plain spaces: {_count(self.spaces)}")
        if self.composed:
            found.append("accents composed (NFC)")
        return tuple(found)


def read_text(path: Path) -> TextFile:
    """Read a text file in any common encoding.

    A byte-order mark decides. Without one, a file that alternates zero bytes and ASCII is UTF-16, and
    any other is UTF-8; if it is not valid UTF-8 and has no valid multi-byte UTF-8 character, it is
    Windows-1252 (Latin-1 with quotation marks and dashes).

    Raises:
        DataError: If it cannot be read or decoded; the message says where.
    """
    raw, encoding, mark = decode_file(path, MOST_BYTES)
    if _has_long_run_of_marks(raw):
        raise DataError(f"{path} holds {_MOST_MARKS} accents on one letter: it is not text")
    return _seen(raw, encoding, mark)


def decode_file(path: Path, most: int) -> tuple[str, str, bool]:
    """Return a file's text as it is, its encoding (see `read_text`), and whether it has a mark.

    Raises:
        DataError: If it cannot be read or decoded, or has more than `most` bytes.
    """
    try:
        data = read_file(path, most)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from None
    encoding, mark = _encoding(data)
    try:
        raw = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is corrupt, or not {encoding} as it seemed: line {line} has bytes that cannot be "
            f"decoded ({error.reason}); save it as UTF-8"
        ) from None
    if "\0" in raw:
        raise DataError(f"{path} holds zero bytes: it is not text, or its encoding is not supported")
    return raw, encoding, bool(mark)


def _has_long_run_of_marks(text: str) -> bool:
    # Ordering them takes quadratic time; real text has at most 30 (UAX 15, stream-safe text).
    marks = "".join(one for one in sorted(set(text)) if unicodedata.combining(one))
    return bool(marks and re.search(f"[{re.escape(marks)}]{{{_MOST_MARKS}}}", text))


def visible(text: str) -> str:
    """Return the visible form of a name or line: composed, stripped, with single spaces."""
    return " ".join(_seen(text, "", False).text.split())


def _encoding(data: bytes) -> tuple[str, bytes]:
    """Return the encoding, and the byte-order mark."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding, mark
    # In UTF-16, every other byte of ASCII text is zero; requiring half of them allows other letters.
    for encoding, zeros in (("UTF-16-LE", data[1::2]), ("UTF-16-BE", data[0::2])):
        if len(data) % 2 == 0 and 2 * zeros.count(0) > len(zeros) and 2 * data.count(0) <= len(data):
            return encoding, b""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        rest = data.decode("utf-8", errors="ignore")
        return ("Windows-1252" if rest.isascii() else "UTF-8"), b""
    return "UTF-8", b""


def _seen(raw: str, encoding: str, mark: bool) -> TextFile:
    ends: Counter[str] = Counter()
    for kind, count in Counter(end[0] for end in _LINE_END.finditer(raw)).items():
        single = kind if kind.endswith("\n") or not kind.startswith("\r") else "\r"
        ends[_end_name(single)] += count * (len(kind) if single == "\r" else 1)
    text = _LINE_END.sub(_line_feeds, raw)
    hidden: dict[str, str | int | None] = {one: "" for one in sorted(set(text)) if _is_invisible(one)}
    wide: dict[str, str | int | None] = {
        one: " " for one in sorted(set(text)) if one not in hidden and _is_space(one)
    }
    found: Counter[str] = Counter()
    if hidden or wide:
        found.update(one for one in text if one in hidden or one in wide)
        text = text.translate(str.maketrans(hidden | wide))
    composed = unicodedata.normalize("NFC", text)
    named = [{_name(one): found[one] for one in kinds} for kinds in (hidden, wide)]
    return TextFile(composed, encoding, mark, dict(ends), named[0], named[1], composed != text)


def _line_feeds(end: re.Match[str]) -> str:
    returns = end[0].startswith("\r") and not end[0].endswith("\n")
    return "\n" * (len(end[0]) if returns else 1)


def _is_space(character: str) -> bool:
    return character == "\t" or (character != " " and unicodedata.category(character) == "Zs")


def _is_invisible(character: str) -> bool:
    category = unicodedata.category(character)
    if category == "Cc":
        return character not in "\n\t"
    if category == "Cf":
        return not _SHOWN.match(character)
    return bool(_IGNORABLE.match(character))


def _end_name(end: str) -> str:
    return " ".join(_LINE_ENDS[character] for character in end)


def _name(character: str) -> str:
    return unicodedata.name(character, f"U+{ord(character):04X}").lower()


def _count(kinds: dict[str, int]) -> str:
    most = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(most) - _EXAMPLES} more kinds" if len(most) > _EXAMPLES else ""
    return ", ".join(f"{count} {kind}" for kind, count in most[:_EXAMPLES]) + more
