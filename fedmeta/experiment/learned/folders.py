"""Adapts a model to a folder of images, and labels the images of another."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedmeta.errors import UsageError
from fedmeta.experiment.learned.adapted import Adapted
from fedmeta.experiment.learned.model import Learned
from fedmeta.learning.inner import WeightAdaptation
from fedmeta.tasks import family_kind
from fedmeta.tasks.image_files import Images, ImageStyle, Invert, read_images
from fedmeta.tasks.image_folder import list_labelled


@dataclass(frozen=True)
class Folders:
    """The folders to adapt to and to label, with options.

    Attributes:
        support: A folder with a subfolder of images per class.
        query: A folder of images, or one with a subfolder per class.
        steps: Adaptation steps; None: the last of the run's ``evaluation.steps``.
        invert: Whether ink is dark in the files; see `read_images`.
        transductive: Whether batch norm takes its statistics from the query images.
        samples: Bits in use in deep images; None: inferred from all of them, see `read_images`.
    """

    support: Path
    query: Path
    steps: int | None = None
    invert: Invert = "auto"
    transductive: bool = False
    samples: int | None = None


@dataclass(frozen=True)
class Labelled:
    """The prediction for a query image.

    Attributes:
        file: The image.
        label: The most probable class.
        probability: The probability of that class.
        truth: The name of its folder; None in a flat query folder.
    """

    file: str
    label: str
    probability: float
    truth: str | None


@dataclass(frozen=True)
class Answer:
    """The result for a pair of folders.

    Attributes:
        adapted: The adapted model.
        files: The query images with predictions.
        notes: Decisions made and files skipped, one line each.
        inverted: Whether dark pixels were taken for ink.
    """

    adapted: Adapted
    files: tuple[Labelled, ...]
    notes: tuple[str, ...]
    inverted: bool

    @property
    def right(self) -> int:
        """Number of images whose label is the name of their folder."""
        return sum(one.label == one.truth for one in self.files)

    @property
    def accuracy(self) -> float | None:
        """Share of images labelled correctly; None for a flat query folder."""
        return None if self.files[0].truth is None else self.right / len(self.files)

    def to_json(self) -> dict[str, Any]:
        """Return the answer as plain values."""
        return {
            **self.adapted.trained.about,
            "steps": self.adapted.steps,
            "classes": list(self.adapted.classes or ()),
            "inverted": self.inverted,
            "notes": list(self.notes),
            "files": [asdict(one) for one in self.files],
            "accuracy": self.accuracy,
        }


def adapt_folders(learned: Learned, folders: Folders) -> Answer:
    """Adapt to the images of one folder and label those of another.

    Both are converted to the format of the run's own images, see `read_images`.

    Raises:
        UsageError: If the run is not about images, or does not support that many classes.
        DataError: If a folder or a file cannot be used; the message names it.
        DivergedError: If the weights became non-finite.
    """
    style = _style(learned)
    support, query = list_labelled(folders.support, folders.query)
    files = support.files + query.files
    shape = learned.spec.input_shape
    images = read_images(files, style, shape, folders.invert, folders.samples)
    x, asked = images.x[: len(support.files)], images.x[len(support.files) :]
    adapted = learned.adapt(x, support.labels or (), folders.steps, folders.transductive)
    chances = adapted.predict(asked)
    classes = adapted.classes or ()
    truths = query.labels or (None,) * len(query.files)
    labelled = [
        Labelled(str(file), str(classes[int(row.argmax())]), float(row.max()), truth)
        for file, row, truth in zip(query.files, chances, truths, strict=True)
    ]
    notes = [*learned.notes, *_notes(support.ignored + query.ignored, images, style)]
    if folders.steps is not None and not isinstance(adapted.trained.algorithm, WeightAdaptation):
        notes.append(f"{learned.config.algorithm} has no inner loop: steps have no effect")
    return Answer(adapted, tuple(labelled), tuple(notes), images.inverted)


def _style(learned: Learned) -> ImageStyle:
    style = getattr(family_kind(learned.config.task), "image_style", None)
    if not isinstance(style, ImageStyle):
        raise UsageError(
            f"{learned.path} was trained on '{learned.config.task}', which does not read image files: "
            "use fedmeta.load(RUN).adapt(support_x, support_y) in Python"
        )
    return style


def _notes(ignored: tuple[Path, ...], images: Images, style: ImageStyle) -> list[str]:
    notes = list(images.notes)
    if ignored:
        notes.append(f"{len(ignored)} hidden files were skipped, such as {ignored[0]}")
    if style.ink:
        taken = "dark ink on light paper" if images.inverted else "light ink on dark paper"
        notes.append(f"the images were taken as {taken}")
    if images.unlike:
        notes.append(f"{len(images.unlike)} of them differ at the edge, such as {images.unlike[0]}")
    return notes
