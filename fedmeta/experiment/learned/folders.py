"""Adapts a model to a folder of images, and labels the images of another."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fedmeta.errors import DataError, UsageError
from fedmeta.experiment.learned.adapted import Adapted
from fedmeta.experiment.learned.model import Learned
from fedmeta.learning.explain import SupportEvidence
from fedmeta.learning.inner import WeightAdaptation
from fedmeta.options import parse_options
from fedmeta.tasks import family_kind
from fedmeta.tasks.file_inputs import Asked, FileInputs
from fedmeta.tasks.image_files import ImageStyle, Invert, read_images
from fedmeta.tasks.image_folder import ImageFolder, list_labelled
from fedmeta.tasks.own.contact_sheet import MOST_ROWS, Row


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
        head: A scikit-learn estimator in place of adaptation, see `Learned.adapt`; None: the run's.
        explain: Whether to name the support images that speak for each prediction.
    """

    support: Path
    query: Path
    steps: int | None = None
    invert: Invert = "auto"
    transductive: bool = False
    samples: int | None = None
    head: str | None = None
    explain: bool = False


_MEANING = {
    "weights": "below each prediction: the support images that count most in it, by the method's own "
    "weights",
    "leave-one-out": "below each prediction: the support images without which its probability falls "
    "most, and by how much",
}
MOST_NAMED = 3
"""Support images that are named for a prediction."""


@dataclass(frozen=True)
class Supporting:
    """A support image that speaks for a prediction.

    Attributes:
        file: The image.
        label: Its class.
        value: How much it speaks for it, see `Adapted.explain`.
    """

    file: str
    label: str
    value: float


@dataclass(frozen=True)
class Labelled:
    """The prediction for a query image.

    Attributes:
        file: The image.
        label: The most probable class.
        probability: The probability of that class.
        truth: The name of its folder; None in a flat query folder.
        support: The support images that speak for it most; None: they were not asked for.
    """

    file: str
    label: str
    probability: float
    truth: str | None
    support: tuple[Supporting, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the prediction as plain values."""
        values = asdict(self)
        if self.support is None:
            del values["support"]
        return values


@dataclass(frozen=True)
class Answer:
    """The result for a pair of folders.

    Attributes:
        adapted: The adapted model.
        files: The query images with predictions.
        notes: Decisions made and files skipped, one line each.
        inverted: Whether dark pixels were taken for ink.
        how: Where the values of support images come from, see `SupportEvidence`; empty: there are none.
    """

    adapted: Adapted
    files: tuple[Labelled, ...]
    notes: tuple[str, ...]
    inverted: bool
    how: str = ""

    @property
    def right(self) -> int:
        """Number of images whose label is the name of their folder."""
        return sum(one.label == one.truth for one in self.files)

    @property
    def accuracy(self) -> float | None:
        """Share of images labelled correctly; None for a flat query folder."""
        return None if self.files[0].truth is None else self.right / len(self.files)

    def rows(self) -> list[Row]:
        """Return rows of pictures for the first `MOST_ROWS` query images.

        A row has the image, then the support images that speak for its label.
        """
        found = []
        for one in self.files[:MOST_ROWS]:
            named = one.support or ()
            wrong = () if one.truth in (None, one.label) else (f"is {one.truth}",)
            captions = [f"{reason.value:.2f} {reason.label}" for reason in named]
            found.append(
                Row(
                    (one.label, f"{one.probability:.3f}", *wrong),
                    (Path(one.file), *(Path(reason.file) for reason in named)),
                    (Path(one.file).name, *captions),
                )
            )
        return found

    @property
    def without_row(self) -> int:
        """Number of query images for which `rows` has no room."""
        return max(len(self.files) - MOST_ROWS, 0)

    def to_json(self) -> dict[str, Any]:
        """Return the answer as plain values."""
        return {
            **self.adapted.trained.about,
            "steps": self.adapted.steps,
            "classes": list(self.adapted.classes or ()),
            "inverted": self.inverted,
            "notes": list(self.notes),
            "files": [one.to_json() for one in self.files],
            "accuracy": self.accuracy,
            **({"explained_by": self.how} if self.how else {}),
        }


def adapt_folders(learned: Learned, folders: Folders) -> Answer:
    """Adapt to the images of one folder and label those of another.

    Both are converted to the format of the run's own images, see `read_images`.

    Raises:
        UsageError: If the run is not about images, or does not support that many classes.
        DataError: If a folder or a file cannot be used; the message names it.
        DivergedError: If the weights became non-finite.
    """
    read = _reader(learned)
    support, query = list_labelled(folders.support, folders.query)
    inputs = read(support.files + query.files, Asked(folders.invert, folders.samples))
    x, asked = inputs.x[: len(support.files)], inputs.x[len(support.files) :]
    adapted = learned.adapt(x, support.labels or (), folders.steps, folders.transductive, folders.head)
    chances = adapted.predict(asked)
    classes = adapted.classes or ()
    truths = query.labels or (None,) * len(query.files)
    notes = list(learned.notes)
    named: Sequence[tuple[Supporting, ...] | None] = (None,) * len(query.files)
    how = ""
    if folders.explain:
        try:
            evidence = adapted.explain(asked)
        except DataError as error:
            notes.append(f"predictions are not explained: {error}")
        else:
            how, named = evidence.how, _named(evidence, support)
            notes.append(_MEANING[how])
    labelled = [
        Labelled(str(file), str(classes[int(row.argmax())]), float(row.max()), truth, own)
        for file, row, truth, own in zip(query.files, chances, truths, named, strict=True)
    ]
    if ignored := support.ignored + query.ignored:
        notes.append(f"{len(ignored)} hidden files were skipped, such as {ignored[0]}")
    notes += inputs.notes
    if folders.steps is not None and not isinstance(adapted.trained.algorithm, WeightAdaptation):
        what = "a scikit-learn head" if adapted.trained.head else learned.config.algorithm
        notes.append(f"{what} has no inner loop: steps have no effect")
    return Answer(adapted, tuple(labelled), tuple(notes), inputs.inverted, how)


def _named(evidence: SupportEvidence, support: ImageFolder) -> list[tuple[Supporting, ...]]:
    """Return the support images with the largest values above 0, for each query."""
    labels = support.labels or ("",) * len(support.files)
    found = []
    for row in evidence.values.tolist():
        best = sorted(zip(row, map(str, support.files), labels, strict=True), reverse=True)[:MOST_NAMED]
        found.append(tuple(Supporting(file, label, value) for value, file, label in best if value > 0))
    return found


def _reader(learned: Learned) -> Callable[[Sequence[Path], Asked], FileInputs]:
    """Return what reads files as the inputs of a run's model."""
    kind = family_kind(learned.config.task)
    read = getattr(kind, "read_files", None)
    if read is not None:
        return partial(read, parse_options(kind.Options, learned.config.data, "data"))
    style = getattr(kind, "image_style", None)
    if not isinstance(style, ImageStyle):
        remedy = "use fedmeta.load(RUN).adapt(support_x, support_y) in Python"
        if learned.config.task == "table":
            remedy = "name two tables, --support FILE --query FILE"
        raise UsageError(
            f"{learned.path} was trained on '{learned.config.task}', which does not read folders of "
            f"files: {remedy}"
        )

    def images(files: Sequence[Path], asked: Asked) -> FileInputs:
        shape = learned.spec.input_shape
        found = read_images(files, style, shape, asked.invert, asked.samples)
        return FileInputs.of_images(found, style)

    return images
