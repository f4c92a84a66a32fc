"""Lists the files of image folders, flat or with a subfolder per class."""

from dataclasses import dataclass
from pathlib import Path

from fedmeta.errors import DataError
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


def list_folder(folder: Path) -> ImageFolder:
    """List a folder of images, or of one subfolder of images per class.

    Links are followed. Hidden entries, whose names begin with a dot, are skipped.

    Raises:
        DataError: If there is no such folder, it or a class is empty, it has both images and subfolders,
            a class has a subfolder, or two classes look the same.
    """
    entries, ignored = _entries(folder)
    classes = [entry for entry in entries if entry.is_dir()]
    if not classes:
        if not entries:
            raise DataError(f"{folder} holds no images{_but(ignored)}")
        return ImageFolder(tuple(entries), None, tuple(ignored))
    if len(classes) < len(entries):
        flat = next(entry for entry in entries if not entry.is_dir())
        raise DataError(
            f"{folder} holds both class folders ('{classes[0].name}') and files ('{flat.name}')"
        )
    files: list[Path] = []
    labels: list[str] = []
    seen: dict[str, Path] = {}
    for one in classes:
        label = visible(one.name) or one.name
        if label in seen:
            raise DataError(
                f"{folder} holds two class folders that look alike: "
                f"{seen[label].name!a} and {one.name!a}"
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


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return a folder's visible and hidden entries, sorted by name."""
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except FileNotFoundError:
        raise DataError(f"no folder at '{folder}'") from None
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from None
    hidden = [entry for entry in entries if entry.name.startswith(".")]
    return [entry for entry in entries if not entry.name.startswith(".")], hidden


def _but(hidden: list[Path]) -> str:
    return f" but {len(hidden)} hidden files" if hidden else ""
