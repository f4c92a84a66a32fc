"""Reads, checks and writes a run's ``streams.json``."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedmeta.experiment.typed_file import Count, First, Name, Part, Real, read_typed, write_typed

STREAMS = "streams.json"
VERSION = 1
"""Version of its format."""
MOST_BATCHES = 2000
MOST_SEGMENTS = 50
_MOST_BYTES = 4 << 20

Size = Annotated[int, Field(ge=1, lt=2**31)]
Batches = Annotated[list[Real | None], First(), Field(max_length=MOST_BATCHES)]


class Estimate(Part):
    """A mean over test clients with half its 95% interval; None: not finite, or not known."""

    mean: Real | None
    ci95: Real | None


class Curve(Part):
    """Estimates after each batch."""

    mean: Batches
    ci95: Batches


Segments = Annotated[list[Estimate], First(), Field(min_length=2, max_length=MOST_SEGMENTS)]
Row = Annotated[list[Real | None], First(), Field(min_length=2, max_length=MOST_SEGMENTS)]


class Streams(Part):
    """The contents of a ``streams.json``; see `fedmeta.learning.online` for what is measured.

    Attributes:
        algorithm: The name of the algorithm.
        measure: The main measure.
        higher_is_better: Whether more of it is better.
        drift: What changes from one segment to the next.
        sizes: Examples in each batch of a stream.
        batches: Batches of a segment.
        clients: Test clients.
        streams: Streams of all clients.
        diverged: How many of them had a loss that is not finite; means over them are not finite either.
        loss: Loss of the batch before it is learned from.
        cumulative: Summed loss of the examples so far.
        still: The same without ever learning.
        regret: Summed loss so far less the comparator's.
        prequential: The main measure of predictions made before learning, by segment.
        matrix: The main measure of each segment (column) before the stream and after each segment (row).
        final: Mean over all segments after the stream, which is average accuracy (ACC).
        backward: Backward transfer (BWT).
        forward: Forward transfer (FWT).
        forgetting: Average forgetting.
    """

    kind: Literal["streams"]
    version: Literal[1]  # that is, VERSION
    algorithm: Name
    measure: Name
    higher_is_better: bool
    drift: Name
    sizes: Annotated[list[Size], First(), Field(min_length=2, max_length=MOST_BATCHES)]
    batches: Annotated[int, Field(ge=1, le=MOST_BATCHES)]
    clients: Count
    streams: Count
    diverged: Count
    loss: Curve
    cumulative: Curve
    still: Curve
    regret: Curve
    prequential: Segments
    matrix: Annotated[list[Row], First(), Field(max_length=MOST_SEGMENTS + 1)]
    final: Estimate
    backward: Estimate
    forward: Estimate
    forgetting: Estimate

    @property
    def summary(self) -> dict[str, Estimate]:
        """What the streams come to, by name; losses and regret are per example."""
        total = sum(self.sizes)
        return {
            "prequential loss": _last(self.cumulative, total),
            "loss without learning": _last(self.still, total),
            "regret": _last(self.regret, total),
            f"{self.measure} at the end": self.final,
            "backward transfer": self.backward,
            "forgetting": self.forgetting,
            "forward transfer": self.forward,
        }

    @model_validator(mode="after")
    def _of_one_shape(self) -> "Streams":
        segments, batches = len(self.prequential), len(self.sizes)
        if batches != segments * self.batches:
            raise ValueError("batches and segments do not agree")
        curves = (self.loss, self.cumulative, self.still, self.regret)
        if any(len(one) != batches for curve in curves for one in (curve.mean, curve.ci95)):
            raise ValueError("curves of other batches")
        if len(self.matrix) != segments + 1 or any(len(row) != segments for row in self.matrix):
            raise ValueError("a matrix of other segments")
        return self


def _last(curve: Curve, total: int) -> Estimate:
    """Return the last value of a sum over `total` examples, for each of them."""
    mean, half = (None if one[-1] is None else one[-1] / total for one in (curve.mean, curve.ci95))
    return Estimate(mean=mean, ci95=half)


def write(folder: Path, streams: Streams) -> None:
    """Write a run's results on streams.

    Raises:
        OSError: If the file cannot be written.
    """
    write_typed(folder / STREAMS, streams)


def read(folder: Path) -> Streams | None:
    """Read a run's results on streams; None: it has none.

    Raises:
        DataError: If the file is damaged or of another version, in one line.
    """
    return read_typed(folder / STREAMS, Streams, VERSION, _MOST_BYTES)
