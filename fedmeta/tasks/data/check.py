"""Inspects a user's data files for `fedmeta data check`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmeta.errors import DataError, UsageError
from fedmeta.tasks.families.shakespeare import lookalikes, read_play
from fedmeta.tasks.image_files import ImageStyle, read_images
from fedmeta.tasks.image_folder import list_folder, require_data
from fedmeta.tasks.image_pixels import Kind

# Any input size will do, as only edges and ranges are inspected.
_SHAPE = (1, 28, 28)


@dataclass(frozen=True)
class Finding:
    """The findings about a user's files.

    Attributes:
        facts: The findings as plain values, for programs.
        lines: The same as label and text, for people.
        notes: Oddities and decisions, one line each.
    """

    facts: dict[str, Any]
    lines: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def check(path: Path, samples: int | None = None) -> Finding:
    """Inspect a folder of images, flat or with a subfolder per class, or a text with speakers.

    Args:
        path: The folder or file.
        samples: For images, see `read_images`.

    Raises:
        DataError: If a file cannot be read; the message names it.
    """
    require_data(path)
    return _images(path, samples) if path.is_dir() else _text(path)


def _images(folder: Path, samples: int | None) -> Finding:
    listed = list_folder(folder)
    try:
        images = read_images(listed.files, ImageStyle(), _SHAPE, samples=samples)
        ink = "dark" if images.inverted else "light"
    except UsageError as error:
        if isinstance(error, DataError):
            raise
        # As many light edges as dark ones: the user has to decide.
        images, ink = read_images(listed.files, ImageStyle(ink=False), _SHAPE, samples=samples), None
    kinds = Counter(f"{kind.format}, {kind.mode}" for kind in images.kinds)
    bits = Counter(str(kind.bits) if kind.bits else "float" for kind in images.kinds)
    classes = Counter(listed.labels or ())
    sizes = [kind.size for kind in images.kinds]
    small, large = (choose(sizes, key=lambda size: size[0] * size[1]) for choose in (min, max))
    transparent = sum(kind.transparent for kind in images.kinds)
    notes = list(images.notes)
    if listed.ignored:
        notes.append(f"hidden files skipped: {len(listed.ignored)}, such as {listed.ignored[0]}")
    if images.unlike:
        notes.append(f"edge unlike most images: {len(images.unlike)}, such as {images.unlike[0]}")
    notes += _misnamed(listed.files, images.kinds)
    facts = {
        "path": str(folder),
        "what": "images",
        "files": len(listed.files),
        "classes": dict(classes) if listed.labels else None,
        "kinds": dict(kinds),
        "bits": dict(bits),
        "sizes": {"smallest": list(small), "largest": list(large)},
        "transparent": transparent,
        "ink": ink,
        "notes": notes,
    }
    about_ink = {
        "dark": "dark on light paper",
        "light": "light on dark paper",
        None: "undecided, as many edges are light as dark: set --invert yes or no",
    }
    lines = [
        ("images", f"{len(listed.files)}" + ("" if listed.labels else ", without classes")),
        *([("classes", _classes(classes))] if listed.labels else []),
        ("kinds", _most(kinds)),
        ("samples", _most(Counter({_bits(key): count for key, count in bits.items()}))),
        ("sizes", f"{small[0]} x {small[1]} to {large[0]} x {large[1]} pixels"),
        ("ink", about_ink[ink]),
        ("transparent", f"{transparent} images, placed on paper" if transparent else "none"),
    ]
    return Finding(facts, tuple(lines), tuple(notes))


def _misnamed(files: Sequence[Path], kinds: Sequence[Kind]) -> list[str]:
    suffixes = {"JPG": "JPEG", "JPE": "JPEG", "JFIF": "JPEG", "TIF": "TIFF", "MPO": "JPEG"}
    wrong = [
        (file, kind.format)
        for file, kind in zip(files, kinds, strict=True)
        if suffixes.get(end := file.suffix.upper().lstrip("."), end) not in (kind.format, "")
    ]
    if not wrong:
        return []
    return [
        f"files whose name does not match their format: {len(wrong)}, such as {wrong[0][0]}, which is "
        f"read as {wrong[0][1]}"
    ]


def _text(path: Path) -> Finding:
    play = read_play(path)
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


def _classes(classes: Counter[str]) -> str:
    fewest, most = min(classes.values()), max(classes.values())
    each = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return f"{len(classes)}, of {each} images each: {_most(classes)}"


def _bits(key: str) -> str:
    return "floats from 0 to 1" if key == "float" else f"of {key} bits"


def _most(counts: Counter[str], shown: int = 8) -> str:
    named = [f"{count} {name}" for name, count in counts.most_common(shown)]
    rest = len(counts) - shown
    return "; ".join(named) + (f"; and {rest} more" if rest > 0 else "")
