"""Inspects folders of images: flat, with a subfolder per class, or with one per client and class."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fedmeta.errors import DataError, UsageError
from fedmeta.tasks.image_files import ImageStyle, Reading, Scanned, scan
from fedmeta.tasks.image_folder import is_hidden, list_folder
from fedmeta.tasks.image_pixels import Kind, Pixels
from fedmeta.tasks.own.counts import Counts, starter_for
from fedmeta.tasks.own.finding import Finding
from fedmeta.tasks.own.folders import IMAGES, has_clients, list_classes, relative
from fedmeta.tasks.own.starter import Choice, Starter

# Any size works, as only edges and ranges are inspected.
_SHAPE = (1, 28, 28)
_SMALL = 64


@dataclass(frozen=True)
class _Folder:
    """The files of a folder, with the client and class of each if the layout has them."""

    root: Path
    files: tuple[Path, ...]
    clients: tuple[str, ...] | None
    labels: tuple[str, ...] | None
    ignored: tuple[Path, ...]


def check_images(folder: Path, samples: int | None = None, skip: Sequence[str] = ()) -> Finding:
    """Inspect a folder of images.

    Args:
        folder: The folder.
        samples: See `read_images`.
        skip: Clients, classes and files to leave out.

    Raises:
        DataError: If it has no readable image, or is not laid out as described above.
    """
    listed = _list(folder, skip)
    images, ink = _scan(listed, samples)
    kinds = Counter(f"{kind.format}, {kind.mode}" for kind in images.kinds)
    bits = Counter(str(kind.bits) if kind.bits else "float" for kind in images.kinds)
    sizes = [kind.size for kind in images.kinds]
    small, large = (choose(sizes, key=lambda size: size[0] * size[1]) for choose in (min, max))
    transparent = sum(kind.transparent for kind in images.kinds)
    notes = _notes(listed, images)
    refused = tuple((relative(folder, file), why) for file, why in images.refused)
    counts = _counts(listed, images)
    facts = {
        "path": str(folder),
        "what": "images",
        "files": len(listed.files),
        "classes": dict(counts.classes) if counts else None,
        **(counts.facts() if counts else {}),
        "kinds": dict(kinds),
        "bits": dict(bits),
        "sizes": {"smallest": list(small), "largest": list(large)},
        "transparent": transparent,
        "ink": ink,
        "coloured": sum(kind.coloured for kind in images.kinds),
        "refused": [{"file": name, "why": why} for name, why in refused],
        "notes": notes,
    }
    about_ink = {
        "dark": "dark on light paper",
        "light": "light on dark paper",
        None: "undecided, as many edges are light as dark: set --invert yes or no",
    }
    lines = [
        ("images", f"{len(listed.files)}" + ("" if listed.labels else ", without classes")),
        *(counts.lines() or [("classes", _classes(counts.classes))] if counts else []),
        ("kinds", _most(kinds)),
        ("samples", _most(Counter({_bits(key): count for key, count in bits.items()}))),
        ("sizes", " to ".join(f"{x} x {y}" for x, y in dict.fromkeys((small, large))) + " pixels"),
        ("ink", about_ink[ink]),
        ("transparent", f"{transparent} images, placed on paper" if transparent else "none"),
    ]
    names = [*skip, *(name for name, _ in refused)]
    starter = partial(_starter, folder, counts, names, images, ink) if counts is not None else None
    return Finding(facts, tuple(lines), tuple(notes), refused, starter)


def _list(folder: Path, skip: Sequence[str]) -> _Folder:
    if skip or has_clients(folder):
        found = list_classes(folder, IMAGES, skip)
        return _Folder(folder, found.files, found.clients, found.labels, found.ignored)
    listed = list_folder(folder)
    return _Folder(folder, listed.files, None, listed.labels, listed.ignored)


def _scan(listed: _Folder, samples: int | None) -> tuple[Scanned, str | None]:
    """Return the files' common properties, and whether ink is dark or light; None: undecided."""
    how = Reading(ImageStyle(), _SHAPE, samples=samples, strict=False)
    try:
        images = scan(listed.files, how, _forget)
    except UsageError as error:
        if isinstance(error, DataError):
            raise
        # As many light edges as dark ones: the user has to decide.
        plain = replace(how, style=ImageStyle(ink=False))
        return scan(listed.files, plain, _forget), None
    return images, "dark" if images.inverted else "light"


def _forget(place: int, pixels: Pixels) -> None:
    """Discard the pixels: only the files' common properties are needed."""


def _counts(listed: _Folder, images: Scanned) -> Counts | None:
    if listed.labels is None:
        return None
    read = set(images.read)
    clients = listed.clients or ("",) * len(listed.files)
    kept = [place for place, file in enumerate(listed.files) if file in read]
    labels = listed.labels
    return Counts.of((clients[place] for place in kept), (labels[place] for place in kept), "images")


def _notes(listed: _Folder, images: Scanned) -> list[str]:
    notes = list(images.notes)
    hidden = [one for one in listed.ignored if is_hidden(one)]
    others = [one for one in listed.ignored if not is_hidden(one)]
    if hidden:
        notes.append(f"skipped hidden files: {len(hidden)}, such as {hidden[0]}")
    if others:
        notes.append(f"skipped files that are not images: {len(others)}, such as {others[0]}")
    if images.unlike:
        notes.append(f"edge unlike most images: {len(images.unlike)}, such as {images.unlike[0]}")
    return notes + _misnamed(images.read, images.kinds)


def _starter(
    folder: Path, counts: Counts, refused: Sequence[str], images: Scanned, ink: str | None
) -> Starter:
    coloured = 2 * sum(kind.coloured for kind in images.kinds) > len(images.kinds)
    largest = max(max(kind.size) for kind in images.kinds)
    size = 28 if not coloured or largest < _SMALL else 48
    told = "none" if coloured else ink or "none"
    form = [
        Choice("size", size, f"Pixels per side; larger files (up to {largest}) are averaged."),
        Choice("colour", "rgb" if coloured else "grey", _about_colour(images)),
        Choice("ink", told, "dark: dark ink on light paper; light: the reverse; none: photos."),
    ]
    return starter_for("images", folder, counts.chosen(refused), form)


def _about_colour(images: Scanned) -> str:
    coloured = sum(kind.coloured for kind in images.kinds)
    return f"{coloured} of {len(images.kinds)} files show colours."


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
