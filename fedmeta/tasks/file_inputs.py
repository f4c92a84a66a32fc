"""A model's inputs from a user's files, for `fedmeta adapt`."""

from dataclasses import dataclass

from torch import Tensor

from fedmeta.tasks.image_files import Images, ImageStyle, Invert


@dataclass(frozen=True)
class Asked:
    """The user's options for reading the files.

    Attributes:
        invert: Whether ink is dark in them; see `read_images`.
        samples: Bits in use in deep images; None: inferred from all of them, see `read_images`.
    """

    invert: Invert = "auto"
    samples: int | None = None


@dataclass(frozen=True)
class FileInputs:
    """Files as a model's inputs.

    A family that reads files in its own way has a static method ``read_files(options, files, asked)``
    that returns this.

    Attributes:
        x: ``[B, *input_shape]``.
        notes: Decisions made, one line each.
        inverted: Whether dark pixels were taken for ink.
    """

    x: Tensor
    notes: tuple[str, ...] = ()
    inverted: bool = False

    @staticmethod
    def of_images(images: Images, style: ImageStyle) -> "FileInputs":
        """Return images, and notes about their ink."""
        notes = list(images.notes)
        if style.ink:
            taken = "dark ink on light paper" if images.inverted else "light ink on dark paper"
            notes.append(f"the images were taken as {taken}")
        if images.unlike:
            notes.append(f"{len(images.unlike)} of them differ at the edge, such as {images.unlike[0]}")
        return FileInputs(images.x, tuple(notes), images.inverted)
