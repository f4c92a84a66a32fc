"""Lists the files of image folders, flat or with a subfolder per class."""

from dataclasses import dataclass
from pathlib import Path

from fedmeta.errors import DataError
from fedmeta.options import nearest, nearest_beside
from fedmeta.tasks.data.text_files import visible


@dataclass(frozen=True)
class ImageFolder:
    """The files of a folder, sorted by name.

    Attributes:
        files: The images.
        labels: The class of each, which is the visible name of its subfolder (see `visible`); None: the
            folder is flat and unlabelled.
        ignored: Hidden files and folders, which are skipped.
    """

    files: tuple[Path, ...]
    labels: tuple[str, ...] | None
    ignored: tuple[Path, ...]


def is_hidden(entry: Path) -> bool:
    """Return whether an entry of a user's folder is skipped: a dot file, or Python's cache."""
    return entry.name.startswith(".") or entry.name == "__pycache__"


def list_folder(folder: Path) -> ImageFolder:
    """List a folder of images, or of one subfolder of images per class.

    Links are followed. Hidden entries (see `is_hidden`) are skipped.

    Raises:
        DataError: If there is no such folder, it or a class is empty, it has both images and subfolders,
            a class has a subfolder, or two classes look the same.
    """
    entries, ignored = _entries(folder)
    classes = [entry for entry in entries if entry.is_dir()]
    if not classes:
        if not entries:
            raise DataError(f"{folder} has no images{_but(ignored)}")
        return ImageFolder(tuple(entries), None, tuple(ignored))
    if len(classes) < len(entries):
        flat = next(entry for entry in entries if not entry.is_dir())
        raise DataError(
            f"{folder} has both class folders ('{classes[0].name}') and files ('{flat.name}')"
        )
    files: list[Path] = []
    labels: list[str] = []
    seen: dict[str, Path] = {}
    for one in classes:
        label = visible(one.name) or one.name
        if label in seen:
            raise DataError(
                f"{folder} has two class folders that look alike: {seen[label].name!a} and {one.name!a}"
            )
        seen[label] = one
        members, hidden = _entries(one)
        ignored += hidden
        if not members:
            raise DataError(f"{one} is a class without images{_but(hidden)}")
        for member in members:
            if member.is_dir():
                raise DataError(
                    f"{member} is a folder within a class: its images belong directly in {one}"
                )
        files += members
        labels += [label] * len(members)
    return ImageFolder(tuple(files), tuple(labels), tuple(ignored))


def list_labelled(support: Path, query: Path) -> tuple[ImageFolder, ImageFolder]:
    """List the folders of `fedmeta adapt`: examples of each class, and images to label.

    Raises:
        DataError: As `list_folder`, with the option that names the folder; or if the examples have no
            classes, or the other folder has a class without examples.
    """
    examples, asked = _option("--support", support), _option("--query", query)
    if examples.labels is None:
        raise DataError(f"--support: {support} has no subfolders: it needs one for each class")
    for label in asked.labels or ():
        if label not in examples.labels:
            hint = nearest(label, set(examples.labels))
            raise DataError(f"--query: the class '{label}' is not in {support}: {hint}")
    return examples, asked


def _option(option: str, folder: Path) -> ImageFolder:
    try:
        return list_folder(folder)
    except DataError as error:
        raise DataError(f"{option}: {error}") from None


def require_data(path: Path) -> None:
    """Refuse a path where there is neither a folder of images nor a file.

    Raises:
        DataError: If there is nothing, or as `list_folder`.
    """
    if path.is_dir():
        list_folder(path)
    elif not path.exists():
        hint = _meant(path) or "name a folder or a file of yours"
        raise DataError(f"nothing at '{path}': {hint}")


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return a folder's visible and hidden entries, sorted by name."""
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except FileNotFoundError:
        hint = _meant(folder)
        raise DataError(f"no folder at '{folder}'" + (f": {hint}" if hint else "")) from None
    except NotADirectoryError:
        raise DataError(f"{folder} is a file, not a folder") from None
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from None
    hidden = [entry for entry in entries if is_hidden(entry)]
    return [entry for entry in entries if not is_hidden(entry)], hidden


def _meant(path: Path) -> str:
    """Return a hint that names a path beside it with nearly the same name; empty if there is none."""
    beside = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = nearest_beside(path, beside)
    return hint if hint.startswith("did you mean") else ""


def _but(hidden: list[Path]) -> str:
    return f" (hidden ones: {len(hidden)})" if hidden else ""
