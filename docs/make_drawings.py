"""Writes drawings of an Omniglot alphabet as folders of images, and measures a run on them.

    python docs/make_drawings.py write letters --alphabet Sanskrit --ways 20 --draws 20
    python docs/make_drawings.py measure letters runs/omniglot-20way-1shot-protonet-001

A draw is a folder with `support` (a drawing of each character) and `query` (two others), for
`fedmeta adapt`.
"""

import argparse
import random
import statistics
import zipfile
from pathlib import Path

from fedmeta.experiment.learned.folders import Folders, adapt_folders
from fedmeta.experiment.learned.model import Learned
from fedmeta.tasks.data.sources import locate, source_named


def drawings(alphabet: str) -> dict[str, dict[str, bytes]]:
    """The official PNG files of an alphabet, by character and name."""
    found: dict[str, dict[str, bytes]] = {}
    for source in source_named("omniglot").files:
        with zipfile.ZipFile(locate(source.path, "omniglot")) as archive:
            for member in sorted(archive.namelist()):
                if f"/{alphabet}/" in member and member.endswith(".png"):
                    *_, character, name = member.split("/")
                    found.setdefault(character, {})[name] = archive.read(member)
    return found


def write(out: Path, alphabet: str, ways: int, draws: int) -> None:
    characters = drawings(alphabet)
    for draw in range(draws):
        rng = random.Random(draw)
        for character in sorted(rng.sample(sorted(characters), ways)):
            names = rng.sample(sorted(characters[character]), 3)
            for side, name in zip(("support", "query", "query"), names, strict=True):
                file = out / f"{draw:02d}" / side / character / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(characters[character][name])


def measure(folder: Path, run: Path) -> None:
    learned = Learned.open(run)
    draws = sorted(one for one in folder.iterdir() if one.is_dir())
    found = [adapt_folders(learned, Folders(one / "support", one / "query")).accuracy for one in draws]
    known = [accuracy for accuracy in found if accuracy is not None]
    half = 1.96 * statistics.stdev(known) / len(known) ** 0.5
    print(f"{statistics.mean(known):.3f} ± {half:.3f} over {len(known)} draws")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write")
    writing.add_argument("folder", type=Path)
    writing.add_argument("--alphabet", default="Sanskrit")
    writing.add_argument("--ways", type=int, default=20)
    writing.add_argument("--draws", type=int, default=20)
    measuring = commands.add_parser("measure")
    measuring.add_argument("folder", type=Path)
    measuring.add_argument("run", type=Path)
    given = parser.parse_args()
    if given.command == "write":
        write(given.folder, given.alphabet, given.ways, given.draws)
    else:
        measure(given.folder, given.run)


if __name__ == "__main__":
    main()
