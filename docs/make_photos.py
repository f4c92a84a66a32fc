"""Writes a folder like miniImageNet: classes of small colour photos, made up, to measure with.

python docs/make_photos.py photos [--classes 100] [--each 100]
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 84


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--each", type=int, default=100, help="photos of each class")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    for label in range(given.classes):
        folder = given.folder / f"class{label:03d}"
        folder.mkdir(parents=True)
        # Every class has coarse patches of its own, and every photo others over them.
        own = rng.uniform(0, 255, (6, 6, 3))
        for index in range(given.each):
            patches = 0.7 * own + 0.3 * rng.uniform(0, 255, (6, 6, 3))
            photo = Image.fromarray(patches.astype(np.uint8)).resize(
                (SIDE, SIDE), Image.Resampling.BICUBIC
            )
            photo.save(folder / f"{index:03d}.jpg", quality=90)


if __name__ == "__main__":
    main()
