"""Adapting to a folder of images, and labelling another."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedmeta.errors import DataError, UsageError
from fedmeta.experiment.learned.adapted import Adapted
from fedmeta.experiment.learned.model import Learned
from fedmeta.learning.inner import WeightAdaptation
from fedmeta.options import nearest
from fedmeta.tasks import family_kind
from fedmeta.tasks.image_files import ImageFolder, Images, ImageStyle, Invert, list_folder, read_images


@dataclass(frozen=True)
class Folders:
    """What to adapt to and what to label.

    Attributes:
        support: A folder with a sub-folder of images per class.
        query: A folder of images, or one with sub-folders by class.
        steps: Adaptation steps; None: the last of the run's ``evaluation.steps``.
        invert: Whether ink is dark in the files; see `read_images`.
        transductive: Whether batch norm takes its statistics from the query images.
        samples: Bits in use in deep images; None: told from all of them, see `read_images`.
    """

    support: Path
    query: Path
    steps: int | None = None
    invert: Invert = "auto"
    transductive: bool = False
    samples: int | None = None


@dataclass(frozen=True)
class Labelled:
    """What was said of a query image.

    Attributes:
        file: The image.
        label: The most probable class.
        probability: Of that class.
        truth: The folder that it lies in; None in a flat query folder.
    """

    file: str
    label: str
    probability: float
    truth: str | None


@dataclass(frozen=True)
class Answer:
    """What came of a pair of folders.

    Attributes:
        adapted: The adapted model.
        files: The query images, labelled.
        notes: What was decided or passed over on the way, a line each.
        inverted: Whether dark pixels were taken for ink.
    """

    adapted: Adapted
    files: tuple[Labelled, ...]
    notes: tuple[str, ...]
    inverted: bool

    @property
    def right(self) -> int:
        """How many images got the name of the folder that they lie in."""
        return sum(one.label == one.truth for one in self.files)

    @property
    def accuracy(self) -> float | None:
        """The share of them; None for a flat query folder."""
        return None if self.files[0].truth is None else self.right / len(self.files)

    def to_json(self) -> dict[str, Any]:
        """Return the answer as plain values."""
        return {
            **self.adapted.learner.about,
            "steps": self.adapted.steps,
            "classes": list(self.adapted.classes or ()),
            "inverted": self.inverted,
            "notes": list(self.notes),
            "files": [asdict(one) for one in self.files],
            "accuracy": self.accuracy,
        }


def adapt_folders(learned: Learned, folders: Folders) -> Answer:
    """Adapt to the images of one folder and label those of another.

    Both are brought to the form of the images that the run learned from, see `read_images`.

    Raises:
        UsageError: If the run is not about images, or cannot tell so many classes apart.
        DataError: If a folder or a file cannot be used; it is named, and nothing was done.
        DivergedError: If the weights became non-finite.
    """
    style = _style(learned)
    support, query = list_folder(folders.support), list_folder(folders.query)
    if support.labels is None:
        raise DataError(f"{folders.support} needs a sub-folder of images per class, and has none")
    _check_labels(support.labels, query)
    files = support.files + query.files
    shape = learned.spec.input_shape
    images = read_images(files, style, shape, folders.invert, folders.samples)
    x, asked = images.x[: len(support.files)], images.x[len(support.files) :]
    adapted = learned.adapt(x, support.labels, folders.steps, folders.transductive)
    chances = adapted.predict(asked)
    classes = adapted.classes or ()
    truths = query.labels or (None,) * len(query.files)
    labelled = [
        Labelled(str(file), str(classes[int(row.argmax())]), float(row.max()), truth)
        for file, row, truth in zip(query.files, chances, truths, strict=True)
    ]
    notes = [*learned.notes, *_notes(support.ignored + query.ignored, images, style)]
    if folders.steps is not None and not isinstance(adapted.learner.algorithm, WeightAdaptation):
        notes.append(f"{learned.config.algorithm} has no inner loop: steps have no effect")
    return Answer(adapted, tuple(labelled), tuple(notes), images.inverted)


def _style(learned: Learned) -> ImageStyle:
    style = getattr(family_kind(learned.config.task), "image_style", None)
    if not isinstance(style, ImageStyle):
        raise UsageError(
            f"{learned.path} learned from '{learned.config.task}', which is not about images in files: "
            "use fedmeta.load(RUN).adapt(support_x, support_y) in Python"
        )
    return style


def _check_labels(classes: tuple[str, ...], query: ImageFolder) -> None:
    for label in query.labels or ():
        if label not in classes:
            raise DataError(
                f"the query class '{label}' is not in the support: {nearest(label, classes)}"
            )


def _notes(ignored: tuple[Path, ...], images: Images, style: ImageStyle) -> list[str]:
    notes = list(images.notes)
    if ignored:
        notes.append(f"{len(ignored)} hidden files were passed over, the first is {ignored[0]}")
    if style.ink:
        taken = "dark ink on light paper" if images.inverted else "light ink on dark paper"
        notes.append(f"the images were taken as {taken}")
    if images.unlike:
        notes.append(f"{len(images.unlike)} of them look otherwise at the edge, as {images.unlike[0]}")
    return notes
