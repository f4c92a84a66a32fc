"""Lists a user's folder of examples, ``DIR/<client>/<class>/file`` or ``DIR/<class>/file``."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedmeta.errors import ConfigError, DataError, MissingDataError
from fedmeta.options import nearest, nearest_beside
from fedmeta.tasks.data.sources import data_folders, sha256_of
from fedmeta.tasks.data.text_files import visible
from fedmeta.tasks.image_folder import is_hidden
from fedmeta.tasks.image_folder import require_data as require_images

LAYOUT = "it needs one folder for each class, or one for each client with one for each class in it"


@dataclass(frozen=True)
class Kind:
    """A kind of files.

    Attributes:
        name: Its name in messages, such as ``images``.
        suffixes: The endings of its files, in lower case; others are ignored.
    """

    name: str
    suffixes: frozenset[str]

    def __contains__(self, file: Path) -> bool:
        return file.suffix.lower() in self.suffixes


IMAGES = Kind(
    "images",
    frozenset([".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".gif", ".webp"]),
)
SOUNDS = Kind("sounds", frozenset({".wav", ".wave", ".flac"}))
TEXTS = Kind("texts", frozenset({".txt", ".text", ".md"}))
ARRAYS = Kind("arrays", frozenset({".npz", ".safetensors"}))
TABLES = Kind("tables", frozenset({".csv", ".tsv", ".parquet"}))


@dataclass(frozen=True)
class Listing:
    """The files of a folder, sorted by client, class and name, whatever the file system's order.

    Names are as a reader sees them, see `visible`.

    Attributes:
        root: The folder.
        files: The files.
        names: The path of each within the folder, with ``/`` between its parts.
        clients: The client of each; None: there are no client folders.
        labels: The class of each.
        ignored: Files of other kinds, and hidden ones.
    """

    root: Path
    files: tuple[Path, ...]
    names: tuple[str, ...]
    clients: tuple[str, ...] | None
    labels: tuple[str, ...]
    ignored: tuple[Path, ...]

    def digest(self) -> str:
        """Return the SHA-256 of the files' names and bytes; `DataError` if one cannot be read."""
        return digest_of_files(self.names, self.files)


def digest_of_files(names: Sequence[str], files: Sequence[Path]) -> str:
    """Return one SHA-256 of files' names and bytes; `DataError` if one cannot be read."""
    whole = hashlib.sha256()
    for name, file in zip(names, files, strict=True):
        whole.update(name.encode("utf-8", "surrogateescape") + b"\0" + sha256_of(file).encode())
    return whole.hexdigest()


def find(path: str, what: str) -> Path:
    """Return a user's file or folder: in the current folder, or else in ``FEDMETA_DATA``.

    Args:
        path: The value of ``data.path``.
        what: What should be there, such as ``folder of images``.

    Raises:
        ConfigError: If the path is empty.
        MissingDataError: If there is nothing.
    """
    if not path.strip():
        raise ConfigError(f"data.path is empty: name a {what}", "data.path")
    given = Path(path).expanduser()
    for place in (given, *(folder / given for folder in data_folders())):
        if place.exists():
            return place
    beside = [one.name for one in given.parent.iterdir()] if given.parent.is_dir() else []
    hint = nearest_beside(given, beside)
    more = f": {hint}" if hint.startswith("did you mean") else f": name a {what}"
    raise MissingDataError(f"data.path: nothing at '{path}'{more}")


def has_clients(root: Path) -> bool:
    """Return whether any subfolder holds folders, as client folders do."""
    tops = (entry for entry in _entries(root) if entry.is_dir() and not is_hidden(entry))
    return any(entry.is_dir() and not is_hidden(entry) for top in tops for entry in _entries(top))


def kind_of(root: Path) -> Kind:
    """Return the most frequent kind of file in a folder and its subfolders; `IMAGES` if empty."""
    found = dict.fromkeys((IMAGES, SOUNDS, TEXTS, ARRAYS), 0)
    for entry in _within(root):
        for kind in found:
            found[kind] += entry in kind
    return max(found, key=lambda kind: found[kind])


def require_data(path: Path, skip: Sequence[str] = ()) -> None:
    """Refuse a path without data, before any file is read.

    Args:
        path: The folder or file.
        skip: Clients, classes and files within a folder to leave out.

    Raises:
        DataError: If there is nothing, or a folder is not laid out as one of the kinds of data.
    """
    if path.is_dir() and not _has_files(path):
        raise DataError(f"{path} holds no files: name a folder with images, sounds, texts or arrays")
    kind = kind_of(path) if path.is_dir() else IMAGES
    if kind in (TEXTS, ARRAYS):
        list_clients(path, kind, skip)
    elif kind is SOUNDS or (path.is_dir() and (skip or has_clients(path))):
        list_classes(path, kind, skip)
    else:
        require_images(path)


def _has_files(root: Path) -> bool:
    """Return whether there is a visible file in a folder or, at any depth, below it."""
    near = any(not entry.is_dir() for entry in _within(root))
    return near or any(name[0] != "." for _, _, names in os.walk(root) for name in names)


def list_classes(root: Path, kind: Kind, skip: Sequence[str] = ()) -> Listing:
    """List a folder with a subfolder for each class, perhaps within one for each client.

    Links are followed. Hidden entries, and files of other kinds, are ignored.

    Args:
        root: The folder.
        kind: The kind of files to list.
        skip: Clients, classes and files to leave out, as paths within the folder.

    Raises:
        ConfigError: If there is nothing to skip at a path.
        DataError: If the folder is not laid out like that; the message names the folder within.
    """
    skipped = Skipped(root, skip)
    ignored: list[Path] = []
    tops = skipped.folders(root, kind, ignored)
    if not tops:
        stray = [one for one in ignored if one in kind and not is_hidden(one)]
        found = f"has {len(stray)} {kind.name} but no folders" if stray else f"has no {kind.name}"
        raise DataError(f"{root} {found}: {LAYOUT}")
    depths = {top: _depth(top, kind) for top in tops}
    shallow = [top for top, depth in depths.items() if depth == 1]
    deep = [top for top, depth in depths.items() if depth == 2]
    if shallow and deep:
        raise DataError(f"{shallow[0]} holds {kind.name}, but {deep[0]} folders: {LAYOUT}")
    rows: list[tuple[str, str, str, Path]] = []
    for top in tops:
        classes = skipped.folders(top, kind, ignored) if deep else [top]
        if not classes:
            raise DataError(f"{top} is a client without classes: {LAYOUT}; {_or_skip(root, top)}")
        for one in classes:
            client = _name(top) if deep else ""
            files = skipped.files(one, kind, ignored)
            if not files:
                raise DataError(f"{one} is a class without {kind.name}: add some, {_or_skip(root, one)}")
            rows += [(client, _name(one), _name(file), file) for file in files]
    skipped.require_all_used()
    return _listing(root, rows, tuple(ignored), bool(deep))


def list_clients(root: Path, kind: Kind, skip: Sequence[str] = ()) -> dict[str, tuple[Path, ...]]:
    """Return each client's files: a file of the client's name, or the files of a folder of that name.

    Args:
        root: The folder.
        kind: The kind of files; others are ignored.
        skip: Clients to leave out, and files within their folders.

    Raises:
        ConfigError: If there is nothing to skip at a path.
        DataError: If the folder has no such files, or two of one client.
    """
    skipped = Skipped(root, skip)
    found: dict[str, tuple[Path, ...]] = {}
    for entry in _entries(root):
        if is_hidden(entry) or not (entry.is_dir() or entry in kind):
            continue
        client = _name(entry) if entry.is_dir() else visible(entry.stem) or entry.stem
        if not skipped.keeps(entry, client):
            continue
        files = skipped.files(entry, kind, []) if entry.is_dir() else [entry]
        if not files:
            raise DataError(
                f"{entry} is a client without {kind.name}: add some, {_or_skip(root, entry)}"
            )
        if client in found:
            raise DataError(f"{root} has two entries for client '{client}': {entry.name!a} is one")
        found[client] = tuple(files)
    skipped.require_all_used()
    if not found:
        raise DataError(f"{root} has no {kind.name}: it needs a file, or a folder of them, per client")
    return found


@dataclass(frozen=True)
class ClientFiles:
    """The files of each client."""

    by_client: dict[str, tuple[Path, ...]]

    def digest(self) -> str:
        """Return the SHA-256 of the files' names and bytes; `DataError` if one cannot be read."""
        clients = sorted(self.by_client)
        pairs = [(f"{name}/{_name(file)}", file) for name in clients for file in self.by_client[name]]
        return digest_of_files([name for name, _ in pairs], [file for _, file in pairs])


@dataclass
class Skipped:
    """Paths within a folder to leave out.

    Attributes:
        root: The folder.
        paths: The paths, with ``/`` between their parts.
    """

    root: Path
    paths: Sequence[str]
    _seen: set[str] = field(default_factory=set)
    _used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._wanted = {"/".join(visible(part) for part in _parts(path)): path for path in self.paths}

    def keeps(self, entry: Path, called: str = "") -> bool:
        """Return whether to keep an entry of the folder; `called` overrides its name."""
        name = called or relative(self.root, entry)
        self._seen.add(name)
        if name in self._wanted:
            self._used.add(name)
        return name not in self._wanted

    def folders(self, within: Path, kind: Kind, ignored: list[Path]) -> list[Path]:
        """Return the subfolders to read, sorted by name; refuse two that look alike."""
        found: dict[str, Path] = {}
        for entry in _entries(within):
            if is_hidden(entry) or not entry.is_dir():
                ignored.append(entry)
            elif self.keeps(entry):
                if _name(entry) in found:
                    other = found[_name(entry)].name
                    raise DataError(
                        f"{within} has two folders that look alike: {other!a} and {entry.name!a}"
                    )
                found[_name(entry)] = entry
        stray = [one for one in ignored if one.parent == within and one in kind]
        if found and stray and not is_hidden(stray[0]):
            raise DataError(f"{within} has both folders and {kind.name} ('{stray[0].name}'): {LAYOUT}")
        return [found[name] for name in sorted(found)]

    def files(self, within: Path, kind: Kind, ignored: list[Path]) -> list[Path]:
        """Return the files to read, sorted by name."""
        found = []
        for entry in _entries(within):
            if is_hidden(entry):
                ignored.append(entry)
            elif entry.is_dir():
                raise DataError(f"{entry} is a folder within a class: its files belong in {within}")
            elif entry not in kind:
                ignored.append(entry)
            elif self.keeps(entry):
                found.append(entry)
        return sorted(found, key=lambda file: (_name(file), file.name))

    def require_all_used(self) -> None:
        """Refuse a path to skip that does not exist."""
        for name, path in self._wanted.items():
            if name not in self._used:
                # A client is mistaken for a client, not for one of its files.
                alike = {one for one in self._seen if one.count("/") == name.count("/")}
                hint = nearest(name, alike or self._seen)
                raise ConfigError(f"data.skip: nothing at '{path}' in {self.root}: {hint}", "data.skip")


def relative(root: Path, entry: Path) -> str:
    """Return the visible path of an entry within a folder."""
    return "/".join(visible(part) or part for part in entry.relative_to(root).parts)


def _listing(
    root: Path, rows: list[tuple[str, str, str, Path]], ignored: tuple[Path, ...], clients: bool
) -> Listing:
    # By client and class first, as some characters sort before "/".
    rows = sorted(rows, key=lambda row: (row[0], row[1], row[2], row[3].name))
    return Listing(
        root,
        tuple(file for *_, file in rows),
        tuple("/".join(part for part in row[:3] if part) for row in rows),
        tuple(client for client, *_ in rows) if clients else None,
        tuple(label for _, label, *_ in rows),
        ignored,
    )


def _depth(folder: Path, kind: Kind) -> int:
    """Return 1 if a folder holds files of a kind, 2 if it holds folders, 0 if it holds neither."""
    shown = [entry for entry in _entries(folder) if not is_hidden(entry)]
    if any(entry in kind and not entry.is_dir() for entry in shown):
        return 1
    return 2 if any(entry.is_dir() for entry in shown) else 0


def _or_skip(root: Path, entry: Path) -> str:
    name = relative(root, entry)
    return f"or leave it out: data.skip = [{name!r}], which `fedmeta init --skip` sets"


def _within(root: Path) -> list[Path]:
    """Return the visible entries of a folder, of its subfolders and of theirs."""
    found: list[Path] = []
    folders = [root]
    for _ in range(3):
        entries = [one for folder in folders for one in _entries(folder) if not is_hidden(one)]
        folders = [entry for entry in entries if entry.is_dir()]
        found += entries
    return found


def _name(entry: Path) -> str:
    return visible(entry.name) or entry.name


def _parts(path: str) -> Iterator[str]:
    return (part for part in path.split("/") if part not in ("", "."))


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir(), key=lambda entry: entry.name)
    except NotADirectoryError:
        raise DataError(f"{folder} is a file, not a folder") from None
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from None
