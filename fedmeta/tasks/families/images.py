"""A user's own images: few-shot classification, one folder per client and class."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedmeta.errors import ConfigError, DataError, UsageError
from fedmeta.options import Options
from fedmeta.tasks.family import TaskSpec
from fedmeta.tasks.file_inputs import Asked, FileInputs
from fedmeta.tasks.image_files import ImageStyle, Invert, Reading, read_images, scan
from fedmeta.tasks.image_pixels import Pixels
from fedmeta.tasks.own.classed import Classed, ClassedOptions, Items, pool_of, spec_of
from fedmeta.tasks.own.decoded import Writer, decoded
from fedmeta.tasks.own.folders import IMAGES, Listing, find, list_classes
from fedmeta.tasks.population import Population

# Part of the name of cached files: raise it when what is kept in them changes.
_FORMAT = "images 1"
_INVERT: dict[str, Invert] = {"auto": "auto", "dark": "yes", "light": "no", "none": "no"}
# Of a photo's brightness: constants, independent of clients' data.
MEAN, DEVIATION = 0.5, 0.25


class ImagesOptions(ClassedOptions):
    """Options of `Images`: those of your own labelled examples, and the format of an image.

    Attributes:
        size: Height and width of an image, in pixels.
        colour: ``grey`` or ``rgb``.
        ink: What is drawn: ``dark`` or ``light`` ink becomes 1 and paper 0; ``none``: photos, whose
            brightness is standardised. ``auto``: by the images' edges if grey, ``none`` if rgb.
        samples: Bits actually used in 16-bit or float files, such as 12; None: detected from all of
            them.
    """

    size: int = Field(default=28, ge=8, le=512)
    colour: Literal["grey", "rgb"] = "grey"
    ink: Literal["auto", "dark", "light", "none"] = "auto"
    samples: Literal[8, 10, 12, 14, 16] | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return (3 if self.colour == "rgb" else 1), self.size, self.size


class Images(Classed):
    """N-way K-shot tasks over your own images; x ``[T, ways * shots, 1 or 3, size, size]``.

    Files may have any mode, depth and size, see `read_images`. Drawings are ink 1 on paper 0, photos are
    standardised. How images are dealt to clients: see `Classed`.

    Raises:
        ConfigError: If the options do not fit the images or the population.
        DataError: If the folder or a file cannot be used, or Pillow is missing.
    """

    Options: ClassVar[type[Options]] = ImagesOptions
    examples: ClassVar[str] = "images"

    def __init__(self, options: ImagesOptions, population: Population, seed: int) -> None:
        self.format = options
        self.listing = list_images(options)
        super().__init__(options, population, seed, Items.of_files(self.listing))

    @override
    def read(self) -> Tensor:
        """Return brightness ``[N, channels, size, size]``, uint8, mapped into memory."""
        pixels, about = decoded(
            _key(self.format, self.listing),
            (len(self.listing.files), *self.format.input_shape),
            np.uint8,
            lambda writer: _decode(self.format, self.listing, writer),
        )
        self.inverted = bool(about["inverted"])
        self.style = style_of(self.format)
        return pool_of(pixels)

    @override
    def inputs(self, x: Tensor) -> Tensor:
        """Return brightness as ink, or standardised."""
        if self.inverted:
            x = x.neg_().add_(1.0)
        return x.sub_(self.style.mean).div_(self.style.deviation) if not self.style.ink else x

    @staticmethod
    def shape(options: ImagesOptions) -> TaskSpec | None:
        """Return the shape of tasks; None for global labels, which depend on the data's classes."""
        return None if options.labels == "global" else spec_of(options, options.input_shape)

    @staticmethod
    def digest(options: ImagesOptions) -> str:
        """Return the SHA-256 of the files' names and bytes."""
        return list_images(options).digest()

    @staticmethod
    def read_files(options: ImagesOptions, files: Sequence[Path], asked: Asked) -> FileInputs:
        """Read files as a model's inputs, for `fedmeta adapt`."""
        how = _reading(options)
        if asked.invert != "auto" and how.style.ink:
            how = replace(how, invert=asked.invert)
        samples = asked.samples or how.samples
        images = read_images(files, how.style, how.input_shape, how.invert, samples)
        return FileInputs.of_images(images, how.style)


def list_images(options: ImagesOptions) -> Listing:
    """List the images of a folder; see `list_classes`."""
    return list_classes(find(options.path, "folder of images"), IMAGES, options.skip)


def style_of(options: ImagesOptions) -> ImageStyle:
    """Return the format of the family's images."""
    if options.ink == "none" or (options.ink == "auto" and options.colour == "rgb"):
        return ImageStyle(ink=False, mean=MEAN, deviation=DEVIATION)
    return ImageStyle()


def _key(options: ImagesOptions, listing: Listing) -> str:
    style = style_of(options)
    what = f"{_FORMAT} {options.input_shape} {style} {options.ink} {options.samples} {listing.digest()}"
    return f"images-{hashlib.sha256(what.encode()).hexdigest()[:32]}"


def _decode(options: ImagesOptions, listing: Listing, writer: Writer) -> dict[str, Any]:
    def keep(place: int, pixels: Pixels) -> None:
        writer.put(place, np.rint(pixels * 255.0).clip(0, 255).astype(np.uint8))

    try:
        return {"inverted": scan(listing.files, _reading(options), keep).inverted}
    except DataError:
        raise
    except UsageError:
        # The message for `fedmeta adapt` names an option of the command.
        raise ConfigError(
            f"{listing.root}: as many images have light edges as dark ones: set data.ink to 'dark', "
            "'light', or 'none' for photos",
            "data.ink",
        ) from None


def _reading(options: ImagesOptions) -> Reading:
    return Reading(style_of(options), options.input_shape, _INVERT[options.ink], options.samples)
