"""Inspects a user's data files for `fedmeta data check`."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fedmeta.errors import DataError
from fedmeta.tasks.families.shakespeare import lookalikes, read_play
from fedmeta.tasks.own.check_images import check_images
from fedmeta.tasks.own.check_sounds import check_sounds
from fedmeta.tasks.own.check_table import check_table
from fedmeta.tasks.own.check_texts import check_texts
from fedmeta.tasks.own.finding import Finding
from fedmeta.tasks.own.folders import ARRAYS, SOUNDS, TABLES, TEXTS, kind_of, require_data


def check(path: Path, samples: int | None = None, skip: Sequence[str] = ()) -> Finding:
    """Inspect a folder of images, sounds or texts, a table, or a text with speakers.

    Args:
        path: The folder or file.
        samples: For images, see `read_images`.
        skip: Clients, classes and files to leave out.

    Raises:
        DataError: If nothing there can be used; the message says why.
    """
    require_data(path, skip)
    if not path.is_dir():
        return check_table(path, skip) if path in TABLES else _text(path)
    kind = kind_of(path)
    if kind is ARRAYS:
        raise DataError(
            f"{path}: arrays are not inspected: see docs/your-own-data.md for task = 'arrays'"
        )
    if kind in (SOUNDS, TEXTS):
        return check_sounds(path, skip) if kind is SOUNDS else check_texts(path, skip)
    return check_images(path, samples, skip)


def _text(path: Path) -> Finding:
    play = read_play(path, "name the folder of a text without speakers")
    file = play.file
    alike = lookalikes(play.said)
    notes = list(file.odd)
    notes += [f"speakers that may be the same: {', '.join(map(repr, group))}" for group in alike]
    if play.left_out:
        first = play.left_out[0].splitlines()[0][:40]
        notes.append(f"{len(play.left_out)} blocks are not speech and are left out, such as {first!r}")
    characters = {speaker: sum(map(len, said)) for speaker, said in play.said.items()}
    speeches = Counter({speaker: len(said) for speaker, said in play.said.items()})
    facts = {
        "path": str(path),
        "what": "text",
        "encoding": file.encoding,
        "byte_order_mark": file.mark,
        "line_ends": file.line_ends,
        "invisible": file.invisible,
        "spaces": file.spaces,
        "composed": file.composed,
        "speakers": [
            {"name": name, "speeches": speeches[name], "characters": characters[name]}
            for name in characters
        ],
        "alike": [list(group) for group in alike],
        "left_out": len(play.left_out),
        "notes": notes,
    }
    most = sorted(characters, key=lambda name: (-characters[name], name))[:4]
    said = ", ".join(f"{name} {characters[name]}" for name in most)
    lines = (
        ("encoding", file.encoding + (", with a byte-order mark" if file.mark else "")),
        ("line ends", ", ".join(f"{count} {end}" for end, count in file.line_ends.items()) or "none"),
        ("speakers", f"{len(play.said)}, with {sum(speeches.values())} speeches"),
        ("characters", f"{sum(characters.values())}; most by {said}"),
    )
    return Finding(facts, lines, tuple(notes))
