"""Tests a model on streams of the test clients' tasks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedmeta.config import Config
from fedmeta.errors import ConfigError
from fedmeta.experiment.streams import MOST_BATCHES, Curve, Estimate, Streams
from fedmeta.experiment.typed_file import short
from fedmeta.federation import Learner, clustered_half_width
from fedmeta.learning import CPU, Tensors, chunk_tasks, expand_state, one_thread, place
from fedmeta.learning.online import OnlineRun, run_online, stream_learner, transfer
from fedmeta.tasks.streams import Segment, StreamShape, draw_streams

_AT_LEAST = 2
"""Examples from which batch norm takes statistics."""


def require_streams(config: Config, learner: Learner) -> None:
    """Refuse streams, if the config has some, that its parts cannot do; a stream is drawn to see.

    Raises:
        ConfigError: If the method, the tasks or the model cannot, or a stream would be too long.
    """
    options = config.evaluation.stream
    if not options.segments:
        return
    where, objective = "evaluation.stream", learner.algorithm.objective
    if not objective.has_support or not (objective.labels or objective.numbers):
        raise ConfigError(
            f"{where}: task '{config.task}' has no labelled examples that could arrive one by one; set "
            f"{where}.segments = 0"
        )
    if stream_learner(learner.algorithm) is None:
        raise ConfigError(
            f"{where}: algorithm '{config.algorithm}' cannot learn from a stream; choose one that takes "
            "gradient steps, such as 'maml', or 'protonet'"
        )
    if not learner.has_data:
        raise ConfigError(f"{where}: the data of test clients are not on this machine")
    with one_thread():
        sizes = {
            segment.support["y"].shape[1]
            for client in range(config.clients - config.test_clients, config.clients)
            for segment in _draw(config, learner, client, 1)
        }
    if len(sizes) > 1:
        raise ConfigError(
            f"{where}: test clients' tasks have {min(sizes)} to {max(sizes)} support examples, but the "
            "segments of streams need the same number"
        )
    [size] = sizes
    batches = -(-size // options.batch)
    if (total := batches * options.segments) > MOST_BATCHES:
        raise ConfigError(
            f"{where}: {options.segments} segments of {size:,} examples are {total:,} batches of "
            f"{options.batch}, but {MOST_BATCHES:,} is the limit; use larger batches or fewer segments"
        )
    last = size - (batches - 1) * options.batch
    if learner.algorithm.model.batch_norm and min(last, options.batch) < _AT_LEAST:
        raise ConfigError(
            f"{where}.batch = {options.batch}: batch norm takes its statistics from the examples that "
            f"arrive together, and of {size} some arrive alone; set another, such as "
            f"{_dividing(size)}, or a model without batch norm"
        )


def _dividing(size: int) -> int:
    """Return the smallest size of batches that leaves no example alone."""
    return next((one for one in range(_AT_LEAST, size) if size % one != 1), size)


def measure_streams(config: Config, learner: Learner, states: Mapping[int, Tensors]) -> Streams:
    """Learn from streams of each test client, and measure.

    Args:
        config: The config, whose `StreamOptions` say how.
        learner: The clients' side of the workload.
        states: The state with which each test client starts, without a task axis.
    """
    with one_thread():  # as everywhere in a run: other threads, other bits
        runs = {client: _of_client(config, learner, state, client) for client, state in states.items()}
    objective, options = learner.algorithm.objective, config.evaluation.stream
    scale = objective.all_measures[objective.main]
    each = [[_quantities(run, scale.higher_is_better) for run in parts] for parts in runs.values()]
    found = {
        name: _over_clients([torch.cat([one[name] for one in parts]).mean(0) for parts in each])
        for name in each[0][0]
    }
    every = [run for parts in runs.values() for run in parts]
    return Streams(
        kind="streams",
        version=1,
        algorithm=config.algorithm[:200],
        measure=objective.main[:200],
        higher_is_better=scale.higher_is_better,
        drift=options.drift,
        sizes=list(every[0].sizes),
        batches=len(every[0].sizes) // options.segments,
        clients=len(runs),
        streams=len(runs) * options.streams,
        diverged=sum(int((~run.loss.isfinite()).any(1).sum()) for run in every),
        prequential=[Estimate(mean=m, ci95=h) for m, h in zip(*found["prequential"], strict=True)],
        matrix=found["matrix"][0],
        loss=Curve(mean=found["loss"][0], ci95=found["loss"][1]),
        cumulative=Curve(mean=found["cumulative"][0], ci95=found["cumulative"][1]),
        still=Curve(mean=found["still"][0], ci95=found["still"][1]),
        regret=Curve(mean=found["regret"][0], ci95=found["regret"][1]),
        final=Estimate(mean=found["final"][0], ci95=found["final"][1]),
        backward=Estimate(mean=found["backward"][0], ci95=found["backward"][1]),
        forward=Estimate(mean=found["forward"][0], ci95=found["forward"][1]),
        forgetting=Estimate(mean=found["forgetting"][0], ci95=found["forgetting"][1]),
    )


def _of_client(config: Config, learner: Learner, state: Tensors, client: int) -> list[OnlineRun]:
    """Return the results on a client's streams, in chunks that suit the model."""
    algorithm, options = learner.algorithm, config.evaluation.stream
    segments = _draw(config, learner, client, options.streams)
    size = chunk_tasks(algorithm.model, learner.device)
    found = []
    for first in range(0, options.streams, size):
        part = [one[first : first + size] for one in segments]
        rows = expand_state(place(state, learner.device), len(part[0]))
        steps = max(config.evaluation.steps[-1], 1)
        found.append(run_online(algorithm, rows, part, options.batch, steps))
    return found


def _draw(config: Config, learner: Learner, client: int, count: int) -> list[Segment]:
    options = config.evaluation.stream
    shape = StreamShape(options.segments, options.drift)
    drawn = draw_streams(learner.family, client, count, shape, config.seed)
    return [one.to(learner.dtype, learner.device) for one in drawn]


def _quantities(run: OnlineRun, higher_is_better: bool) -> Tensors:
    """Return everything that is averaged, ``[T, ...]`` each, on the CPU."""
    online = {"loss": run.loss, "cumulative": run.summed(run.loss), "still": run.summed(run.still)}
    online |= {"regret": run.regret, "prequential": run.prequential, "matrix": run.matrix}
    return place(online | vars(transfer(run.matrix, higher_is_better)), CPU)


def _over_clients(means: Sequence[Tensor]) -> tuple[Any, Any]:
    """Return the mean over clients and half its 95% interval, as nested lists."""
    values = torch.stack(list(means))
    mean = values.mean(0)
    residuals = ((values - mean) / len(values)).reshape(len(values), -1).T.tolist()
    halves = [clustered_half_width(one) for one in residuals]
    half = torch.tensor([math.nan if one is None else one for one in halves]).view_as(mean)
    return _shortened(mean.tolist()), _shortened(half.tolist())


def _shortened(values: Any) -> Any:
    return [_shortened(one) for one in values] if isinstance(values, list) else short(values)
