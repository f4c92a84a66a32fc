"""Learning from a stream: predict each batch as it arrives, then learn from its labels."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fedmeta.learning.algorithm import Algorithm, Tensors
from fedmeta.tasks import Examples, Objective, TaskBatch
from fedmeta.tasks.measure import LOSS


@runtime_checkable
class StreamLearner(Protocol):
    """An `Algorithm` that can learn from a stream.

    What it has learned so far is a dict of tensors ``[T, ...]``, which `predict` accepts in place of
    the result of `Algorithm.adapt`.
    """

    def begin_stream(self, state: Tensors, like: Examples, ways: int) -> Tensors:
        """Return what is known before the first example.

        Args:
            state: The meta-learned state, ``[T, ...]``.
            like: Some examples of the streams, for shapes and dtypes; targets are not read.
            ways: Classes of all the stream.
        """
        ...

    def learn(self, state: Tensors, known: Tensors, examples: Examples) -> Tensors:
        """Return what is known after learning from ``[T, B, ...]`` examples without padding."""
        ...


def stream_learner(algorithm: Algorithm) -> StreamLearner | None:
    """Return an algorithm as a stream learner; None if it cannot be one."""
    return algorithm if isinstance(algorithm, StreamLearner) else None


@dataclass(frozen=True)
class OnlineRun:
    """Results on T streams of S segments, in float64; values that diverged are not finite.

    Attributes:
        sizes: Examples in each of the B batches of a stream.
        loss: Mean loss of each batch before it was learned from, ``[T, B]``: the prequential loss (Dawid
            1984; Gama, Sebastião, Rodrigues 2013, "On evaluating stream learning algorithms").
        still: The same of a learner that never learns, ``[T, B]``.
        hindsight: The same of the comparator of the batch's segment, ``[T, B]``, see `run_online`.
        prequential: The main measure over a segment's predictions, each made before its label was
            learned from, ``[T, S]``.
        matrix: The main measure on the query set of segment j (column) before the stream (row 0) and
            after learning up to segment i (row i), ``[T, S + 1, S]``.
    """

    sizes: tuple[int, ...]
    loss: Tensor
    still: Tensor
    hindsight: Tensor
    prequential: Tensor
    matrix: Tensor

    def summed(self, loss: Tensor) -> Tensor:
        """Return the summed loss of all examples so far, after each batch, ``[T, B]``."""
        return (loss * loss.new_tensor(self.sizes)).cumsum(1)

    @property
    def regret(self) -> Tensor:
        """Summed loss so far less that of the comparator, ``[T, B]``.

        The comparator changes with the segments, as in tracking regret (Herbster, Warmuth 1998,
        "Tracking the Best Expert"), and is chosen in hindsight and after adaptation, as in Finn,
        Rajeswaran, Kakade, Levine 2019, "Online Meta-Learning", section 3.
        """
        return self.summed(self.loss - self.hindsight)


def run_online(
    algorithm: Algorithm, state: Tensors, segments: Sequence[TaskBatch], batch: int, steps: int
) -> OnlineRun:
    """Learn from T streams at once; the learner is not told where a segment ends.

    The comparator of a segment is the same method, given the whole segment in advance: it restarts
    and learns from all its examples at once, up to `steps` times; of these, and of not learning at all,
    the one with the least loss on the segment counts, for each stream.

    Batch norm takes its statistics from the examples that are predicted or learned from together.

    Args:
        algorithm: Has a `stream_learner`.
        state: The meta-learned state, ``[T, ...]``.
        segments: See `fedmeta.tasks.streams.draw_streams`.
        batch: Examples that arrive at once; the last ones of a segment may be fewer.
        steps: Most steps of the comparator, at least 1.
    """
    learner = stream_learner(algorithm)
    assert learner is not None
    ways = classes(algorithm.objective, segments)
    judge = _Judge(algorithm, state, batch)
    known = learner.begin_stream(state, segments[0].support, ways)
    losses: list[Tensor] = []
    still, hindsight, prequential = [], [], []
    matrix = [judge.row(known, segments)]
    for segment in segments:
        said = []
        for part in judge.batches(segment.support):
            said.append(judge.predict(known, part))
            losses.append(algorithm.objective.loss(said[-1], part).double())
            known = learner.learn(state, known, part)
        prequential.append(judge.main(torch.cat(said, 1), segment.support))
        matrix.append(judge.row(known, segments))
        begun = learner.begin_stream(state, segment.support, ways)
        still.append(judge.losses(begun, segment.support))
        hindsight.append(_hindsight(learner, judge, begun, segment.support, steps))
    return OnlineRun(
        sizes=tuple(_length(part) for one in segments for part in judge.batches(one.support)),
        loss=torch.stack(losses, 1),
        still=torch.cat(still, 1),
        hindsight=torch.cat(hindsight, 1),
        prequential=torch.stack(prequential, 1),
        matrix=torch.stack(matrix, 1),
    )


def classes(objective: Objective, segments: Sequence[TaskBatch]) -> int:
    """Return how many outputs the examples of streams need."""
    if not objective.labels or objective.spec.vocabulary:
        return objective.spec.outputs
    return 1 + max(int(half["y"].max()) for one in segments for half in (one.support, one.query))


@dataclass(frozen=True)
class _Judge:
    """Predicts and measures with what has been learned so far.

    Attributes:
        algorithm: How to predict.
        state: The meta-learned state, ``[T, ...]``.
        batch: Examples that arrive at once.
    """

    algorithm: Algorithm
    state: Tensors
    batch: int

    def batches(self, examples: Examples) -> Iterator[Examples]:
        """Yield the batches in which examples arrive."""
        for first in range(0, _length(examples), self.batch):
            yield {key: value[:, first : first + self.batch] for key, value in examples.items()}

    @torch.no_grad()
    def predict(self, known: Tensors, examples: Examples) -> Tensor:
        return self.algorithm.predict(self.state, known, examples, transductive=True)

    def losses(self, known: Tensors, examples: Examples) -> Tensor:
        """Return the mean loss of each batch, ``[T, batches]``."""
        loss = self.algorithm.objective.loss
        found = [loss(self.predict(known, part), part) for part in self.batches(examples)]
        return torch.stack(found, 1).double()

    def row(self, known: Tensors, segments: Sequence[TaskBatch]) -> Tensor:
        """Return the main measure on the query set of each segment, ``[T, S]``."""
        found = [self.main(self.predict(known, one.query), one.query) for one in segments]
        return torch.stack(found, 1)

    def main(self, prediction: Tensor, examples: Examples) -> Tensor:
        """Return the main measure, ``[T]``: the worst where the loss is not finite, if there is one."""
        objective = self.algorithm.objective
        loss = objective.loss(prediction, examples).double()
        if objective.main == LOSS:
            return loss
        worst = objective.measures[objective.main].worst
        value = objective.measure(prediction, examples)[objective.main].double()
        return value.where(loss.isfinite(), math.nan if worst is None else worst)


def _hindsight(
    learner: StreamLearner, judge: _Judge, known: Tensors, examples: Examples, steps: int
) -> Tensor:
    """Return the losses of the comparator of a segment, ``[T, batches]``; see `run_online`."""
    best = judge.losses(known, examples)
    sizes = best.new_tensor([_length(part) for part in judge.batches(examples)])
    for _ in range(steps):
        known = learner.learn(judge.state, known, examples)
        found = judge.losses(known, examples)
        # A sum that is not finite is not less, and never better.
        better = (found @ sizes) < (best @ sizes)
        best = found.where(better.unsqueeze(1), best)
    return best


def _length(examples: Examples) -> int:
    return int(next(iter(examples.values())).shape[1])


@dataclass(frozen=True)
class Transfer:
    """What a stream's matrix says about lifelong learning, ``[T]`` each; better is always more.

    Attributes:
        final: Mean of the last row: the measure on all segments after the stream.
        backward: What learning later segments did for earlier ones.
        forward: What learning earlier segments did for later ones, before they came.
        forgetting: How far segments have fallen below their best; here less is better.
    """

    final: Tensor
    backward: Tensor
    forward: Tensor
    forgetting: Tensor


def transfer(matrix: Tensor, higher_is_better: bool) -> Transfer:
    """Measure transfer and forgetting in a matrix ``R [T, S + 1, S]``, see `OnlineRun`.

    Lopez-Paz, Ranzato 2017, "Gradient Episodic Memory for Continual Learning", equations 2 to 4:
    ``ACC = mean_j R[S, j]``, ``BWT = mean_{j < S} R[S, j] - R[j, j]`` and
    ``FWT = mean_{j > 1} R[j - 1, j] - b_j``, where the baseline ``b`` is row 0: the learner before the
    stream. Forgetting is the measure of Chaudhry, Dokania, Ajanthan, Torr 2018, "Riemannian Walk for
    Incremental Learning": ``mean_{j < S} max_{1 <= i < S} R[i, j] - R[S, j]``. Where less of the measure
    is better, all but ACC are of its negative.
    """
    sign = 1.0 if higher_is_better else -1.0
    last = matrix[:, -1]
    learned, ahead = (matrix.diagonal(offset, 1, 2) for offset in (-1, 0))
    backward = sign * (last - learned)[:, :-1].mean(1)
    forward = sign * (ahead - matrix[:, 0])[:, 1:].mean(1)
    peak = (sign * matrix[:, 1:-1, :-1]).amax(1)
    return Transfer(last.mean(1), backward, forward, (peak - sign * last[:, :-1]).mean(1))
