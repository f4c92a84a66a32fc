"""Hostile files, built on demand and without random numbers; none is stored in the repository.

Large ones are sparse or compress well.
"""

import io
import json
import sqlite3
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

Make = Callable[[Path], None]

NINES = "9" * 5000
DEEP = "[" * 2000 + "]" * 2000
CONTROLS = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\u2066\r\n"
HUGE = 10**90


@dataclass(frozen=True)
class Case:
    """A hostile file.

    Attributes:
        kind: The file that it stands in for, which selects the readers.
        name: What is wrong with it.
        make: Writes it to a path.
    """

    kind: str
    name: str
    make: Make


def put(data: bytes | str) -> Make:
    """Return a function that writes `data`."""
    text = data.encode(errors="surrogatepass") if isinstance(data, str) else data
    return lambda path: void(path.write_bytes(text))


def void(_: object) -> None:
    """Discard a value."""


def fifo(path: Path) -> None:
    """Make a named pipe without a writer: opening it blocks."""
    import os

    os.mkfifo(path)


def device(path: Path) -> None:
    """Make a symbolic link to an endless device."""
    path.symlink_to("/dev/zero")


def symlink_loop(path: Path) -> None:
    """Make a symbolic link to itself."""
    path.symlink_to(path.name)


def folder(path: Path) -> None:
    """Make a folder where a file should be."""
    path.mkdir()


def sparse(size: int) -> Make:
    """Return a function that writes a sparse file of `size` zero bytes."""

    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return make


REPLACEMENTS: dict[str, Make] = {
    "pipe": fifo,
    "device": device,
    "symbolic link to itself": symlink_loop,
    "folder": folder,
    "empty": put(b""),
    "zero bytes": put(bytes(1000)),
    "not UTF-8": put(b"\xff\xfe\xfd" * 100),
    "5 GB of zeros": sparse(5 << 30),
}
"""What any file can be replaced with."""

VALUES: dict[str, str] = {
    "null": "null",
    "true": "true",
    "-1": "-1",
    "5,000 digits": NINES,
    "90 digits": str(HUGE),
    "huge float": "1e308",
    "1e999": "1e999",
    "NaN": "NaN",
    "long text": json.dumps("x" * 60_000),
    "control characters": json.dumps(CONTROLS),
    "markup": json.dumps("</script><img src=x onerror=alert(1)>[/bold]{{7*7}}"),
    "lone surrogate": '"\\ud800"',
    "list": "[]",
    "table": "{}",
    "2,000 nested lists": DEEP,
    "90 nested lists": "[" * 90 + "]" * 90,
    "mixed list": '[null, true, -1, "a", {"a": [1]}, [[]]]',
    "formula": json.dumps('=HYPERLINK("http://x")'),
}
"""JSON values to put anywhere in a file."""


def with_value(text: str, key: str, value: str) -> str:
    """Return a JSON object with one entry replaced by the given JSON text."""
    marked = json.loads(text) | {key: "@here@"}
    return json.dumps(marked).replace('"@here@"', value)


def replaced(kinds: str) -> Iterator[Case]:
    """Yield each kind of file replaced by each of `REPLACEMENTS`."""
    for kind in kinds.split():
        for name, make in REPLACEMENTS.items():
            yield Case(kind, name, make)


def configs() -> Iterator[Case]:
    """Yield TOML files that are expensive to parse."""
    good = 'task = "sinusoid"\nalgorithm = "maml"\nmodel = "mlp"\nrounds = 1\nclients = 4\ncohort = 2\n'
    texts = {
        "5,000 digits": f"rounds = {NINES}\n",
        "4,000 digits": f"rounds = {'9' * 4000}\n",
        "2,000 brackets": f"rounds = {DEEP}\n",
        "2,000 inline tables": "a = " + "{b = " * 2000 + "1" + "}" * 2000,
        "dotted key of 60 KB": ".".join(["a"] * 30_000) + " = 1\n",
        "dotted key in a header": f"[{'.'.join(['a'] * 30_000)}]\n",
        "dotted key with quotes": ".".join(['"a"'] * 20_000) + " = 1\n",
        "dotted key with spaces": " . ".join(["a"] * 20_000) + " = 1\n",
        "dotted key in a table": "a = {" + ".".join(["b"] * 20_000) + " = 1}\n",
        "key of 60 KB": "k" * 60_000 + " = 1\n",
        "key of control characters": f"{json.dumps(CONTROLS)} = 1\n",
        "value of control characters": f"task = {json.dumps(CONTROLS)}\n",
        "100,000 unknown keys": "".join(f"k{n} = 0\n" for n in range(100_000)),
        "10,000 unknown tables": "".join(f"[t{n}]\n" for n in range(10_000)),
        "10,000 behaviours": "[[behaviours]]\n" * 10_000,
        "unterminated string": 'task = "' + "x" * 50_000,
        "unterminated multi-line string": "task = '''" + "x\n" * 20_000,
        "only quotes": '"' * 50_000,
        "only opening brackets": "[" * 50_000,
        "only closing brackets": "]" * 5_000,
        "only equals signs": "=" * 50_000,
        "carriage returns": "\r" * 50_000,
        "backslashes": 'task = "' + "\\\\" * 20_000 + '"\n',
        "bad escape": 'task = "\\ud800"\n',
        "infinite timeout": f"{good}timeout = inf\n",
        "NaN timeout": f"{good}timeout = nan\n",
        "timeout of 1e999": f"{good}timeout = 1e999\n",
        "zero bytes": f"{good}\0",
        "byte-order mark": "\ufeff" + good,
        "bad date": "rounds = 2026-13-45\n",
        "seed too large": f"{good}seed = {2**63}\n",
        "negative rounds": good.replace("rounds = 1", "rounds = -1"),
        "hex of 4,000 digits": f"rounds = 0x{'f' * 4000}\n",
        "underscores": f"rounds = {'_'.join('9' * 400)}\n",
        "a table for a number": f"{good}[timeout]\na = 1\n",
        "a list of lists": f"{good}mods = {DEEP[1900:2100]}\n",
    }
    for name, text in texts.items():
        yield Case("config", name, put(text))


def run_infos(good: str) -> Iterator[Case]:
    """Yield ``run.json`` files with a hostile value that a report reads."""
    for key in ("status", "final", "replies", "versions", "seed", "wall_seconds"):
        for name in ("90 digits", "control characters", "mixed list", "90 nested lists", "table"):
            yield Case("run.json", f"{key}: {name}", put(with_value(good, key, VALUES[name])))
    for name in ("5,000 digits", "2,000 nested lists", "NaN", "lone surrogate", "long text", "markup"):
        yield Case("run.json", f"error: {name}", put(with_value(good, "error", VALUES[name])))
    steps = json.dumps([{"step": 10**6, "accuracy": 2, "loss": 1e308, "tasks": -1}] * 2000)
    yield Case("run.json", "2,000 steps", put(with_value(good, "final", steps)))
    yield Case("run.json", "a list", put("[1, 2]"))
    yield Case("run.json", "60,000 keys", put("{" + ",".join(f'"{n}":0' for n in range(60_000)) + "}"))
    yield Case("run.json", "truncated", put(good[: len(good) // 2]))


def rows(kind: str, good: list[str], keys: str) -> Iterator[Case]:
    """Yield logs with a hostile value in the second line."""
    names = (
        "90 digits",
        "5,000 digits",
        "huge float",
        "NaN",
        "control characters",
        "mixed list",
        "null",
    )
    for key in keys.split():
        for name in names:
            second = with_value(good[1], key, VALUES[name])
            yield Case(kind, f"{key}: {name}", put("\n".join([good[0], second, *good[2:], ""])))
    for name in ("2,000 nested lists", "5,000 digits", "long text", "null", "list"):
        yield Case(kind, f"a line of {name}", put(f"{good[0]}\n{VALUES[name]}\n"))
    yield Case(kind, "one endless line", put(good[0] * 2000))
    yield Case(kind, "a line of 3 MB", put(good[0] + "\n" + " " * 3_000_000 + "\n"))
    yield Case(kind, "100,000 newlines", put("\n" * 100_000))
    yield Case(kind, "CRLF newlines", put("\r\n".join(good)))


def manifests(good: str) -> Iterator[Case]:
    """Yield manifests with a valid hash and invalid entries."""
    for key in ("round", "log_bytes", "best_round", "best_score", "sha256", "constants_sha256"):
        for name in ("true", "-1", "90 digits", "NaN", "mixed list", "long text"):
            yield Case("manifest", f"{key}: {name}", put(with_value(good, key, VALUES[name])))
    yield Case("manifest", "5,000 digits", put(with_value(good, "round", NINES)))
    yield Case("manifest", "2,000 nested lists", put(DEEP))
    yield Case("manifest", "unknown entry", put(with_value(good, "colour", "1")))
    logs = '{"metrics.jsonl": -5}'
    yield Case("manifest", "negative length", put(with_value(good, "log_bytes", logs)))
    yield Case("manifest", "missing length", put(with_value(good, "log_bytes", "{}")))


def tensors(good: dict[str, Any]) -> Iterator[Case]:
    """Yield hostile checkpoints whose manifest has their hash."""
    first = next(key for key in sorted(good) if key.startswith("state."))

    def changed(value: Any) -> bytes:
        return save({key: np.asarray(one) for key, one in (good | {first: value}).items()})

    shape = np.asarray(good[first]).shape
    nan = np.full(shape, np.nan, dtype=np.float32)
    infinite = np.zeros(shape, dtype=np.float32)
    infinite.flat[0] = np.inf
    wrong = {
        "float16": np.zeros(shape, dtype=np.float16),
        "float64": np.zeros(shape, dtype=np.float64),
        "int64": np.zeros(shape, dtype=np.int64),
        "bool": np.zeros(shape, dtype=bool),
        "NaN": nan,
        "infinite": infinite,
        "scalar": np.float32(1.0),
        "extra axis": np.zeros((1, *shape), dtype=np.float32),
        "empty": np.zeros((0,), dtype=np.float32),
    }
    for name, value in wrong.items():
        yield Case("tensors", name, put(changed(value)))
    fewer = {key: np.asarray(value) for key, value in good.items() if key != first}
    yield Case("tensors", "missing tensor", put(save(fewer)))
    more = {key: np.asarray(value) for key, value in good.items()} | {"state.\x1b[2J": nan}
    yield Case("tensors", "extra tensor", put(save(more)))
    yield Case("tensors", "no tensors", put(save({})))
    for name, head in {
        "header of 2^63 bytes": (2**63 - 1, b"{}"),
        "truncated header": (10_000, b'{"a":'),
        "nested header": (len(DEEP), DEEP.encode()),
        "unknown dtype": (0, b'{"state.a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}'),
        "offset beyond the end": (0, b'{"state.a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'),
        "negative size": (0, b'{"state.a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}'),
        "shape too large": (
            0,
            b'{"state.a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}',
        ),
    }.items():
        size, text = head
        yield Case("tensors", name, put(struct.pack("<Q", size or len(text)) + text + bytes(4)))


def journals(good: bytes) -> Iterator[Case]:
    """Yield SQLite files that are not journals, or have invalid content."""

    def altered(*statements: str) -> Make:
        def make(path: Path) -> None:
            path.write_bytes(good)
            with sqlite3.connect(path) as db:
                for statement in statements:
                    db.execute(statement)
            db.close()

        return make

    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS round FROM n"
    yield Case(
        "journal", "an endless view", altered("DROP TABLE rounds", f"CREATE VIEW rounds AS {endless}")
    )
    yield Case(
        "journal",
        "a trigger",
        altered("CREATE TRIGGER t AFTER INSERT ON rounds BEGIN DELETE FROM campaign; END"),
    )
    yield Case(
        "journal",
        "a computed column",
        altered("ALTER TABLE stakes ADD COLUMN big AS (zeroblob(900000000))"),
    )
    yield Case("journal", "a virtual table", altered("CREATE VIRTUAL TABLE v USING fts5(x)"))
    yield Case("journal", "a missing table", altered("DROP TABLE transactions"))
    yield Case("journal", "an unknown version", altered("PRAGMA user_version = 99"))
    for column, value in {
        "campaign": "'text'",
        "round_cap": "'many'",
        "budget": f"'{NINES}'",
        "ledger": "x'00ff'",
        "block": "'\x1b[2J'",
        "chain_id": "1.5",
    }.items():
        yield Case(
            "journal", f"{column} = {value[:12]!a}", altered(f"UPDATE campaign SET {column} = {value}")
        )
    yield Case(
        "journal",
        "numbers instead of actions",
        altered("INSERT INTO transactions VALUES (x'00', 7, 8, 'n', x'', 'mined', NULL, NULL)"),
    )
    yield Case(
        "journal",
        "control characters instead of actions",
        altered("INSERT INTO transactions VALUES (x'00', char(27), 'a', 1, x'', 'mined', NULL, NULL)"),
    )
    yield Case("journal", "truncated", put(good[: len(good) // 2]))
    yield Case("journal", "a flipped byte", put(good[:100] + bytes([good[100] ^ 0xFF]) + good[101:]))


def png(
    width: int, height: int, data: bytes = b"", depth: int = 8, colour: int = 0, more: bytes = b""
) -> bytes:
    """Return a PNG with the given header."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def images() -> Iterator[Case]:
    """Yield images whose declared size is larger or smaller than their data."""
    from PIL import Image

    for width, height in (
        (89_000_000, 1),
        (1, 89_000_000),
        (65_535, 65_535),
        (2**31 - 1, 2**31 - 1),
        (0, 0),
    ):
        yield Case(
            "image", f"PNG of {width} x {height}", put(png(width, height, zlib.compress(bytes(1000))))
        )
    yield Case(
        "image",
        "PNG of 9,000 x 9,000, complete",
        lambda path: void(path.write_bytes(png(9000, 9000, zlib.compress(bytes(9001 * 9000), 9)))),
    )
    flat = zlib.compress(bytes(11 * 10))
    yield Case("image", "PNG without data", put(png(10, 10)))
    yield Case("image", "truncated PNG", put(png(10, 10, flat)[:-20]))
    yield Case("image", "PNG of depth 3", put(png(10, 10, flat, depth=3)))
    yield Case("image", "PNG of colour 9", put(png(10, 10, flat, colour=9)))
    bomb = zlib.compress(bytes(50_000_000), 9)
    text = b"zTXt" + b"a\0\0" + bomb
    yield Case(
        "image",
        "PNG with 50 MB of compressed text",
        put(
            png(
                10,
                10,
                flat,
                more=struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text)),
            )
        ),
    )
    yield Case("image", "PNG with more data than pixels", put(png(10, 10, bomb)))
    for format_ in ("JPEG", "TIFF", "BMP", "GIF", "WEBP"):
        file = io.BytesIO()
        Image.new("L", (12, 12), 200).save(file, format_)
        data = bytearray(file.getvalue())
        yield Case("image", f"truncated {format_}", put(bytes(data[: len(data) // 2])))
        for place in (4, 10, 18, 22):
            changed = data.copy()
            changed[place : place + 4] = b"\xff\xff\xff\x7f"
            yield Case(
                "image", f"{format_} with bytes {place} to {place + 3} changed", put(bytes(changed))
            )
    yield Case("image", "script", put("<script>alert(1)</script>"))
    yield Case("image", "SVG", put('<svg xmlns="http://www.w3.org/2000/svg"/>'))
    yield Case("image", "EPS", put("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"))


def texts() -> Iterator[Case]:
    """Yield texts that are expensive to read."""
    parts = {
        "carriage returns": "\r" * 300_000,
        "line feeds": "\n" * 300_000,
        "spaces": "A:\n" + " " * 300_000 + "x\n",
        "tag characters": "A:\n" + "".join(map(chr, range(0xE0000, 0xE1000))) * 20,
        "right-to-left override": "A\u202e:\nhello\n\n\u2066B:\nhi\n",
        "ligatures": "A:\n" + "\ufdfa" * 50_000,
        "combining marks": "A:\na" + "\u0301" * 100_000,
        "alternating combining marks": "A:\na" + "\u0301\u0316" * 50_000,
        "speakers": "\n\n".join(f"S{n}:\nx" for n in range(50_000)),
        "colons": ":" * 300_000,
        "colons and line feeds": ":\n" * 150_000,
        "a long line": "x" * 300_000 + ":\ny",
        "control characters": f"A{CONTROLS}:\nx\n",
        "bell": "A\a:\nx\n",
        "zero bytes": "A:\nx\0\n",
        "truncated utf-16": "\ufeffA:\nx".encode("utf-16-le")[:-1].decode("latin-1"),
    }
    for name, text in parts.items():
        yield Case("text", name, put(text.encode("latin-1") if name == "truncated utf-16" else text))
    for mark in (b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        yield Case(
            "text", f"byte-order mark {mark.hex()}, then invalid text", put(mark + b"\xd8\x00\xdc" * 333)
        )


def zips() -> Iterator[Case]:
    """Yield zip bombs, and archives whose names point outside their folder."""

    def archive(*members: tuple[str, bytes]) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
            for name, data in members:
                out.writestr(name, data)
        return file.getvalue()

    good = "images_background/Latin/character01/0001_01.png"
    drawing = png(105, 105, zlib.compress((b"\0" + b"\xff" * 105) * 105))
    big = bytes(400_000_000)
    yield Case("zip", "a member of 400 MB", lambda path: void(path.write_bytes(archive((good, big)))))
    lie = bytearray(archive((good, bytes(40_000_000))))
    for place in (lie.find(b"PK\x03\x04") + 22, lie.find(b"PK\x01\x02") + 24):
        lie[place : place + 4] = struct.pack("<I", 300)
    yield Case("zip", "a member with a false size", put(bytes(lie)))
    yield Case(
        "zip",
        "120,000 members",
        lambda path: void(path.write_bytes(archive(*((f"{n}", b"") for n in range(120_000))))),
    )
    for name in (
        "../../etc/passwd",
        "/etc/passwd",
        "a/../../Latin/character01/0001_01.png",
        f"Latin{CONTROLS}/character01/0001_01.png",
        "C:\\x\\character01\\0001_01.png",
        "x" * 60_000,
    ):
        yield Case("zip", f"a member named {name[:20]!a}", put(archive((name, drawing))))
    yield Case("zip", "a drawing of 89,000,000 x 1", put(archive((good, png(89_000_000, 1)))))
    yield Case("zip", "a drawing of 9 x 9", put(archive((good, png(9, 9, zlib.compress(bytes(90)))))))
    yield Case("zip", "text instead of a drawing", put(archive((good, b"hello"))))
    whole = archive((good, drawing))
    yield Case("zip", "truncated", put(whole[:-30]))
    encrypted = bytearray(whole)
    for place in (encrypted.find(b"PK\x03\x04") + 6, encrypted.find(b"PK\x01\x02") + 8):
        encrypted[place] |= 1
    yield Case("zip", "encrypted", put(bytes(encrypted)))
    unknown = bytearray(whole)
    for place in (unknown.find(b"PK\x03\x04") + 8, unknown.find(b"PK\x01\x02") + 10):
        unknown[place] = 99
    yield Case("zip", "an unknown compression", put(bytes(unknown)))
    yield Case(
        "zip",
        "the same drawing twice",
        put(archive((good, drawing), (good.replace("0001", "0002"), drawing))),
    )


def comparison() -> dict[str, Any]:
    """Return a valid ``compare.json``."""
    from tests.report.made import arm

    return {
        "kind": "compare",
        "version": 1,
        "experiment": "q",
        "status": "finished",
        "seeds": [0, 1],
        "steps": [0, 10],
        "measure": "accuracy",
        "arms": [arm("a", 0, [0, 1]), arm("b", 1, [0, 1])],
    }


def comparisons() -> Iterator[Case]:
    """Yield ``compare.json`` files with hostile entries."""
    text = json.dumps(comparison())
    for key in ("arms", "seeds", "steps", "target", "experiment"):
        for name in ("90 digits", "mixed list", "control characters"):
            yield Case("compare", f"{key}: {name}", put(with_value(text, key, VALUES[name])))
    yield Case(
        "compare", "100,000 empty arms", put(with_value(text, "arms", "[" + "{}," * 99_999 + "{}]"))
    )
    yield Case("compare", "2,000 nested lists", put(DEEP))
    away = json.loads(text)
    away["arms"][0]["runs"][0]["run"] = "../../../../etc"
    yield Case("compare", "a run outside the folder", put(json.dumps(away)))
    away["arms"][0]["final"][0]["values"] = []
    yield Case("compare", "no values", put(json.dumps(away)))


def examples() -> Iterator[Case]:
    """Yield ``examples.safetensors`` files with invalid arrays or metadata."""
    about = {"kind": "classification", "steps": 3, "clients": [1], "characters": "ab"}
    x, y = np.zeros((2, 1, 4, 4), np.float32), np.zeros(2, np.int64)
    chances = np.full((2, 2), 0.5, np.float32)
    good = {
        "0.support_x": x,
        "0.support_y": y,
        "0.query_x": x,
        "0.query_y": y,
        "0.before": chances,
        "0.after": chances,
    }
    for name, change in {
        "labels out of range": {"0.query_y": y + 99},
        "NaN": {"0.before": chances * np.nan},
        "no axes": {"0.query_x": np.float32(1)},
        "infinite labels": {"0.query_y": np.array([np.inf, -np.inf], np.float32)},
        "many pixels": {"0.support_x": np.zeros((1, 3000, 3000), np.float32)},
        "a name that does not start with a number": {"x.support_x": x},
        "half precision": {"0.support_x": x.astype(np.float16)},
        "empty": {"0.query_x": x[:0], "0.query_y": y[:0]},
    }.items():
        data = {key: np.asarray(value) for key, value in (good | change).items()}
        yield Case("examples.safetensors", name, put(save(data, {"about": json.dumps(about)})))
    for name, text in {
        "2,000 nested lists": DEEP,
        "empty": "{}",
        "5,000 digits": NINES,
        "a list": "[1]",
        "infinite client": json.dumps(about | {"clients": [1e308]}),
    }.items():
        yield Case("examples.safetensors", f"about: {name}", put(save(good, {"about": text})))
    yield Case("examples.safetensors", "no metadata", put(save(good)))


def explanations() -> Iterator[Case]:
    """Yield ``explanations.json`` files with hostile entries."""
    query = {"query": 0, "label": 1, "predicted": 1, "probability": 0.5, "support": [0.5, None]}
    drawn = {"shares": [1.0, 0.0], "separation": None, "x": [0.0], "y": [0.0], "labels": [1]}
    task = {
        "client": 1,
        "support": [0, 1],
        "how": "weights",
        "queries": [query],
        "maps": [{"name": "n", "queries": 1, **drawn}],
        "changes": [{"name": "<b>", "value": None}],
        "similarities": [],
        "memory": {"steps": ["1"], "slots": [0], "reads": [[0.5]], "writes": [[0.5]]},
    }
    rates = [{"name": "w", "steps": [{"mean": 1e299, "low": 0.0, "high": 1.0}]}]
    good = {"kind": "explanations", "version": 1, "algorithm": "a", "steps": 1, "rates": rates}
    text = json.dumps(good | {"tasks": [task]})
    yield Case("explanations.json", "good", put(text))
    for key in ("tasks", "rates", "steps", "algorithm", "version"):
        for name in ("90 digits", "mixed list", "control characters"):
            yield Case("explanations.json", f"{key}: {name}", put(with_value(text, key, VALUES[name])))
    for key in ("support", "queries", "maps", "memory", "client", "changes"):
        for name in ("90 digits", "mixed list", "control characters"):
            own = with_value(json.dumps(task), key, VALUES[name])
            bad = with_value(text, "tasks", f"[{own}]")
            yield Case("explanations.json", f"a task's {key}: {name}", put(bad))
    for name, change in {
        "the largest allowed": {
            "support": [9] * 60,
            "queries": [query | {"support": [0.1] * 60}] * 20,
        },
        "long names": {"changes": [{"name": "x" * 200, "value": 1.0}] * 500},
        "many points": {"maps": [{"name": "n", "queries": 9, **_points(2000)}] * 4},
        "too many points": {"maps": [{"name": "n", "queries": 9, **_points(2001)}]},
        "a memory with the wrong number of steps": {"memory": task["memory"] | {"steps": ["1", "2"]}},  # type: ignore[operator]
        "a query out of range": {"queries": [query | {"query": 2**50}]},
    }.items():
        yield Case("explanations.json", name, put(json.dumps(good | {"tasks": [task | change] * 4})))
    yield Case("explanations.json", "2,000 nested lists", put(DEEP))


def streams() -> Iterator[Case]:
    """Yield ``streams.json`` files with hostile entries."""
    curve = {"mean": [1.0, None], "ci95": [0.5, None]}
    one = {"mean": 0.5, "ci95": None}
    names = {"kind": "streams", "version": 1, "algorithm": "a", "measure": "<b>", "drift": "x"}
    counts = {"sizes": [1, 1], "batches": 1, "clients": 1, "streams": 2, "diverged": 0}
    drawn = dict.fromkeys(("loss", "cumulative", "still", "regret"), curve)
    told = dict.fromkeys(("final", "backward", "forward", "forgetting"), one)
    rest = {"higher_is_better": True, "prequential": [one, one], "matrix": [[0.1, 1e299]] * 3}
    good: dict[str, Any] = {**names, **counts, **drawn, **told, **rest}
    text = json.dumps(good)
    yield Case("streams.json", "good", put(text))
    for key in ("version", "measure", "sizes", "batches", "loss", "prequential", "matrix", "final"):
        for name in ("90 digits", "mixed list", "control characters"):
            yield Case("streams.json", f"{key}: {name}", put(with_value(text, key, VALUES[name])))
    long = {"mean": [1e299] * 2000, "ci95": [1e299] * 2000}
    for name, change in {
        "the longest allowed": {"sizes": [2**30] * 2000, "batches": 1000} | dict.fromkeys(drawn, long),
        "too long": {"sizes": [1] * 2002, "batches": 1001},
        "a curve with the wrong number of batches": {"regret": long},
        "a matrix with the wrong number of segments": {"matrix": [[0.1] * 2] * 4},
        "an empty batch": {"sizes": [0, 1]},
    }.items():
        yield Case("streams.json", name, put(json.dumps(good | change)))
    yield Case("streams.json", "2,000 nested lists", put(DEEP))


def _points(count: int) -> dict[str, Any]:
    column = [float(i) for i in range(count)]
    labels = [i % 1000 for i in range(count)]
    return {"shares": [1.0, 0.0], "separation": 1.0, "x": column, "y": column, "labels": labels}


def cases(run: Path, journal: bytes) -> list[Case]:
    """Return the whole corpus.

    Args:
        run: A finished run; copies of its files are changed.
        journal: The bytes of a valid journal.
    """
    from safetensors.numpy import load_file

    checkpoint = max((run / "checkpoints").glob("round-*.json"))
    lines = {
        name: (run / name).read_text().splitlines()
        for name in ("metrics.jsonl", "clients.jsonl", "test.jsonl")
    }
    return [
        *replaced(
            "config run.json metrics.jsonl clients.jsonl explanations.json streams.json manifest "
            "tensors journal image text zip compare"
        ),
        *configs(),
        *run_infos((run / "run.json").read_text()),
        *rows("metrics.jsonl", lines["metrics.jsonl"], "round loss test"),
        *rows("clients.jsonl", lines["clients.jsonl"], "client admitted reason reward"),
        *rows("test.jsonl", lines["test.jsonl"], "client steps"),
        *manifests(checkpoint.read_text()),
        *tensors(load_file(checkpoint.with_suffix(".safetensors"))),
        *journals(journal),
        *images(),
        *texts(),
        *zips(),
        *comparisons(),
        *examples(),
        *explanations(),
        *streams(),
    ]
