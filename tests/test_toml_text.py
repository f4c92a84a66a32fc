"""Mistakes in a TOML file are reported with their line, in plain words."""

import pytest

from fedmeta.files import parse_toml
from fedmeta.toml_text import line_of

OPEN = "the string is not closed: its second quote is missing"
OPEN_LONG = "the string is not closed: its last three quotes are missing"
OPEN_LIST = "the list is not closed by a ], or a comma is missing"
OPEN_TABLE = "the table is not closed by a } on the same line, or a comma is missing"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('task = "digits\nrounds = 3\n', f"line 1: {OPEN}"),
        ('rounds = 3\ntask = "digits', f"line 2: {OPEN}"),
        ("a = 1\ntask = 'digits\nb = 2\nc = 3\n", f"line 2: {OPEN}"),
        ("names = [\n  'a',\n  'b,\n]\nx = 1", f"line 3: {OPEN}"),
        ('a = 1\nb = """x\ny\nz\n', f"line 2: {OPEN_LONG}"),
        ("a = '''x\ny = 'z'\n", f"line 1: {OPEN_LONG}"),
        ('# "a comment\nsteps = [0, 1\n\n[server]\nlr = 1', f"line 2: {OPEN_LIST}"),
        ("steps = [0 1]", f"line 1: {OPEN_LIST}"),
        ("a = 1\nserver = {lr = 1,\n  clip_norm = 2}", f"line 2: {OPEN_TABLE}"),
        ("server = {lr = 1\n", f"line 1: {OPEN_TABLE}"),
        ("[server\nlr = 1", "line 1: the name of the table is not closed by a ]"),
        ("[[behaviours]\nkind = 'x'", "line 1: the name of the table is not closed by ]]"),
        ("rounds = \nclients = 3", "line 1: 'rounds' has no value"),
        ("\nrounds = # many", "line 2: 'rounds' has no value"),
        ("steps = [0,,1]", "line 1: 'steps' has no value before ',1]'"),
        ("task = digits", "line 1: 'task': text needs plain quotes: \"digits\""),
        (
            "about = Our first study  # x",
            "line 1: 'about': text needs plain quotes: \"Our first study\"",
        ),
        ("names = [anna, 'bob']", "line 1: 'names': text needs plain quotes: \"anna\""),
        ("task = \u201cdigits\u201d", "line 1: 'task': text needs plain quotes: \"digits\""),
        ("compile = True", "line 1: 'compile': write true in lower case"),
        ("max_tasks = None", "line 1: 'max_tasks': TOML has no None: leave the key out"),
        ("lr = .5", "line 1: 'lr': write 0.5 for .5"),
        ("lr = -.25", "line 1: 'lr': write -0.25 for -.25"),
        ("lr = 0,5", "line 1: 'lr': write a number as 0.5, and a list as [0, 1]"),
        ("steps = (0, 1)", "line 1: 'steps': write a list as [0, 1]"),
        ("rounds: 30", "line 1: 'rounds: 30' is neither KEY = VALUE nor [TABLE]"),
        ("a = 1\nimport os", "line 2: 'import os' is neither KEY = VALUE nor [TABLE]"),
        (
            "rounds = 30 cohort = 4",
            "line 1: after the value of 'rounds' there is more, 'cohort = 4': give each key a line of "
            "its own",
        ),
        ("lr = 1\nb = 2\nlr = 3", "line 3: 'lr' is set a second time"),
        ("steps = [1]\nsteps = [\n1,\n2,\n]", "line 2: 'steps' is set a second time"),
        ("server = 3\n[server]\nlr = 1", "line 2: [server] is set a second time"),
        ("[a]\nx = {y = 1, y = 2}", "line 2: 'y' is set a second time in a table"),
        (
            "[a]\nx = 1\n[b]\n[a]\ny = 1",
            "line 4: [a] is set a second time: put all of its keys under the first one",
        ),
        (
            'path = "C:\\data"',
            "line 1: write a backslash in double quotes twice, or put the text in single quotes",
        ),
        ('a = "\\u12"', "line 1: a \\u in double quotes needs four hexadecimal digits"),
        ("since = 2023-02-30", "line 1: there is no such date or time"),
        ('a = 1\nb = "\x07"', "line 2: there is a control character: write it as \\t, \\n or \\uXXXX"),
    ],
)
def test_broken_toml_is_reported_in_plain_words_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"^line \d+: ") as refused:
        parse_toml(text)
    assert str(refused.value) == said


TEXT = """\
task = "a [not a table] # nor a comment"
[server]
options.betas = [
  0.9,   # ] }
  0.999,
]

[[behaviours]]
kind = "noise"
[[behaviours]]
kind = \"\"\"
[data]
\"\"\"
"factor" = 3
  [behaviours.more]
  deep = 1
[data]
x = {a = 1, b = {c = 2}}
parts = [{kind = "a"}, {kind = "b"}]
[[faults.entries]]
kind = "late"
"""


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("task", 1),
        ("server", 2),
        ("server.lr", 2),
        ("server.options.betas", 3),
        ("server.options.betas.1", 3),
        ("behaviours.0.kind", 9),
        ("behaviours.0.clients", 8),
        ("behaviours.1.kind", 11),
        ("behaviours.1.factor", 14),
        ("behaviours.1.clients", 10),
        ("behaviours.1.more.deep", 16),
        ("data.x.b.c", 18),
        ("data.parts.1.kind", 19),
        ("faults.entries.0.seconds", 20),
        ("faults.rates", 20),
        ("rounds", None),
        ("", None),
    ],
)
def test_a_key_is_found_at_its_line_or_at_that_of_its_table(key: str, line: int | None) -> None:
    parse_toml(TEXT)
    assert line_of(TEXT, key) == line
