"""Rotated handwritten digits: few-shot classification of real data without a download."""

import gzip
import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from fedmeta.options import Options
from fedmeta.tasks.image_files import ImageStyle
from fedmeta.tasks.population import Population
from fedmeta.tasks.rotated_digits import RotatedDigits, RotatedDigitsOptions, spec_of

LEVELS = 16.0
SIDE = 8
# Mean and standard deviation of a pixel in [0, 1]: constants, independent of clients' data.
MEAN, DEVIATION = 0.305, 0.376


class DigitsOptions(RotatedDigitsOptions):
    """Options of `Digits`: those of episodes, labels, order, partition, augmentation, and the layout.

    Attributes:
        layout: ``flat`` gives inputs of shape ``(64,)``, ``image`` of shape ``(1, 8, 8)``, with the
            default `size`.
        size: Side of the images in pixels; they are enlarged (bilinear) from the 8 of the data, so that
            a network trained on 28 x 28 pixels can be tested on them.
    """

    layout: Literal["flat", "image"] = "flat"
    size: int = Field(default=SIDE, ge=SIDE, le=105)


class Digits(RotatedDigits):
    """N-way K-shot tasks over the 1,797 digits of scikit-learn, with standardised pixels.

    Each client has its own orientation and label coding: see `RotatedDigits`.

    Raises:
        ConfigError: If there are too many clients for the ways, shots and queries.
    """

    Options: ClassVar[type[Options]] = DigitsOptions
    image_style: ClassVar[ImageStyle] = ImageStyle(mean=MEAN, deviation=DEVIATION)
    name: ClassVar[str] = "digits"

    def __init__(self, options: DigitsOptions, population: Population, seed: int) -> None:
        super().__init__(options, population, seed)
        if options.size != SIDE:
            self.pool = interpolate(self.pool, size=(options.size, options.size), mode="bilinear")
            self.image_shape = tuple(self.pool.shape[1:])
        if options.layout == "flat":
            self.pool = self.pool.flatten(1)
        self.spec = spec_of(options, tuple(self.pool.shape[1:]))

    @classmethod
    def load(cls) -> tuple[Tensor, NDArray[np.int64]]:
        """Return scikit-learn's images, ``[1797, 1, 8, 8]``, and their digits."""
        return _load()

    @staticmethod
    def digest(options: DigitsOptions) -> str:  # noqa: ARG004
        """Return the SHA-256 of scikit-learn's images and digits."""
        images, digits = _load()
        return hashlib.sha256(images.numpy().tobytes() + digits.tobytes()).hexdigest()


@cache
def _load() -> tuple[Tensor, NDArray[np.int64]]:
    # Like `sklearn.datasets.load_digits`, whose import takes longer than the rest of fedmeta.
    found = find_spec("sklearn")
    assert found is not None
    assert found.origin is not None
    with gzip.open(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        data = np.loadtxt(file, delimiter=",", dtype=np.float32)
    images = (data[:, :-1] / LEVELS).reshape(-1, 1, SIDE, SIDE)
    return torch.from_numpy(images), data[:, -1].astype(np.int64)
