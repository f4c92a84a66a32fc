"""Plain messages for broken TOML, and the lines where keys stand."""

import re
import tomllib
from collections.abc import Iterator
from typing import Any

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_OPEN = "the string is not closed: its second quote is missing"
_OPEN_LONG = "the string is not closed: its last three quotes are missing"
_TWICE = "is set a second time"
_QUOTES = "\u201c\u201d\u2018\u2019\u00ab\u00bb'\""

_WORDS = {
    r"Illegal character '\n'": _OPEN,
    r"Found invalid character '\n'": _OPEN,
    "Unterminated string": _OPEN,
    'Expected "\'"': _OPEN,
    "Illegal character": "there is a control character: write it as \\t, \\n or \\uXXXX",
    "Found invalid character": "there is a control character: remove it",
    "Unclosed array": "the list is not closed by a ], or a comma is missing",
    "Unclosed inline table": "the table is not closed by a } on the same line, or a comma is missing",
    "Expected ']'": "the name of the table is not closed by a ]",
    "Expected ']]'": "the name of the table is not closed by ]]",
    "Unescaped": "write a backslash in double quotes twice, or put the text in single quotes",
    "Invalid hex value": "a \\u in double quotes needs four hexadecimal digits",
    "Escaped character": "a \\u in double quotes does not name a character",
    "Invalid date": "there is no such date or time",
}
"""Plain words by the beginning of the parser's message; the longest one counts."""

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?(?:"{3,5}|\Z)|' + r"'''.*?(?:'{3,5}|\Z)|"
    r'"(?:\\[^\n]|[^"\\\n])*"?|' + r"'[^'\n]*'?|#[^\n]*|[\[\]{}\n]|[^\"'#\[\]{}\n]+",
    re.DOTALL,
)


def problem(text: str, error: tomllib.TOMLDecodeError) -> str:
    """Return what is wrong with a TOML text, with the number of the line.

    Args:
        text: The text.
        error: What the parser said.
    """
    said = _PLACE.sub("", str(error))
    found = _PLACE.search(str(error))
    lines = text.split("\n")
    if found is None or found[1] is None:
        # Of what is open at the end, the reader looks for the beginning.
        line, source = _open_string(text) or _statement_at(text, len(lines))
        return f"line {line}: {_plain(said, source.strip(), '')}"
    line, column = int(found[1]), int(found[2])
    rest = lines[line - 1][column - 1 :].strip()
    start, source = _statement_at(text, line)
    # The parser notices an open list, or a second key, after the value.
    if said.startswith(("Unclosed", "Cannot", "Duplicate")):
        line = start
    return f"line {line}: {_plain(said, source.strip(), rest)}"


def _plain(said: str, source: str, rest: str) -> str:
    """Return the parser's message in plain words.

    Args:
        said: The message, without the place.
        source: The statement that it is about.
        rest: What follows in the line.
    """
    first = source.split("\n")[0]
    key = first.partition("=")[0].strip()
    if said.startswith("Invalid value"):
        return _bad_value(key, rest)
    if said.startswith("Invalid initial") and not rest:
        said = "Unclosed inline table"
    if said.startswith("Expected newline") and rest.startswith(","):
        return f"'{key}': write a number as 0.5, and a list as [0, 1]"
    if said.startswith("Expected newline"):
        return f"after the value of '{key}' there is more, {rest!r}: give each key a line of its own"
    if said.startswith(("Expected '='", "Invalid statement", "Invalid initial character")):
        return f"{first!r} is neither KEY = VALUE nor [TABLE]"
    if said.startswith("Cannot declare"):
        return f"{first} {_TWICE}: put all of its keys under the first one"
    if said.startswith("Duplicate inline"):
        return f"'{said.split()[-1][1:-1]}' {_TWICE} in a table"
    if said.startswith("Cannot"):
        return f"{first if first.startswith('[') else repr(key)} {_TWICE}"
    if '"""' in source or "'''" in source:
        said = said.replace("Expected \"'''\"", "Unterminated string")
        if said.startswith("Unterminated"):
            return _OPEN_LONG
    begins = [one for one in _WORDS if said.startswith(one)]
    return _WORDS[max(begins, key=len)] if begins else said


def _bad_value(key: str, rest: str) -> str:
    word = re.split(r"[\s,\]}#]", rest)[0]
    if not word:
        return f"'{key}' has no value" + (f" before {rest!r}" if rest[:1] not in ("", "#") else "")
    if word.lower() in ("true", "false"):
        return f"'{key}': write {word.lower()} in lower case"
    if word.lower() in ("none", "null", "nil"):
        return f"'{key}': TOML has no {word}: leave the key out"
    if number := re.fullmatch(r"([+-]?)\.(\d+)", word):
        return f"'{key}': write {number[1]}0.{number[2]} for {word}"
    if word.startswith("("):
        return f"'{key}': write a list as [0, 1]"
    bare = word if re.search(r"[,\]}]", rest) else rest.partition("#")[0].strip()
    return f"'{key}': text needs plain quotes: \"{bare.strip(_QUOTES)}\""


def line_of(text: str, key: str) -> int | None:
    """Return the line where a dotted key stands in a valid TOML text.

    For a key that it does not have, it is the line of the innermost table above it; None without one.
    """
    lines: dict[str, int] = {}
    last: dict[str, int] = {}
    table = ""
    for number, source in _statements(text):
        paths = list(_paths(tomllib.loads(source)))
        if source.lstrip().startswith("["):
            table = _opened(paths[-1], source.lstrip().startswith("[["), last)
            parts = table.split(".")
            paths = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
        elif table:
            paths = [f"{table}.{path}" for path in paths]
        for path in paths:
            lines.setdefault(path, number)
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return lines.get(key) if key else None


def _opened(path: str, listed: bool, last: dict[str, int]) -> str:
    """Return the path of the table that a header opens, with the positions of tables in lists.

    Args:
        path: The path that the header names.
        listed: Whether the header adds a table to a list.
        last: The last position of each list of tables so far; a new one is noted.
    """
    *above, name = path.removesuffix(".0" if listed else "").split(".")
    full = ""
    for part in above:
        full = f"{full}.{part}".strip(".")
        full = f"{full}.{last[full]}" if full in last else full
    full = f"{full}.{name}".strip(".")
    if not listed:
        return full
    last[full] = last.get(full, -1) + 1
    return f"{full}.{last[full]}"


def _paths(value: Any, path: str = "") -> Iterator[str]:
    """Yield the dotted path of each key in a value, tables before their keys."""
    if isinstance(value, list):
        value = {str(place): one for place, one in enumerate(value) if isinstance(one, dict)}
    for name, one in value.items() if isinstance(value, dict) else ():
        inner = f"{path}.{name}".strip(".")
        yield inner
        yield from _paths(one, inner)


def _open_string(text: str) -> tuple[int, str] | None:
    """Return the first statement with a string that is not closed, with the line of the string."""
    for number, source in _statements(text):
        for token in _TOKEN.finditer(source):
            if token[0][0] in "\"'" and (len(token[0]) == 1 or token[0][0] != token[0][-1]):
                return number + source.count("\n", 0, token.start()), source
    return None


def _statement_at(text: str, line: int) -> tuple[int, str]:
    """Return the statement that a line is part of, with the number of its first line."""
    found = (line, "")
    for number, source in _statements(text):
        if number > line:
            break
        found = (number, source)
    return found


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield each statement of a text, with the number of its first line."""
    line, depth, start = 1, 0, 1
    parts: list[str] = []
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == "\n" and depth <= 0:
            if "".join(parts).strip():
                yield start, "".join(parts)
            line += 1
            start, depth, parts = line, 0, []
            continue
        depth += (token in ("[", "{")) - (token in ("]", "}"))
        line += token.count("\n")
        parts.append(token)
    if "".join(parts).strip():
        yield start, "".join(parts)
