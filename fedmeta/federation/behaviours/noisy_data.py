"""A client with wrong labels or noisy inputs."""

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedmeta import options
from fedmeta.federation.behaviours import OtherLearner
from fedmeta.federation.learner import Learner
from fedmeta.tasks import Examples, TaskBatch, TaskFamily


class NoisyData(OtherLearner):
    """Trains on data with wrong labels or noisy inputs."""

    class Options(options.Options):
        """Options of the noise.

        Attributes:
            labels: Share of labels (or targets) replaced by that of a random example of the task.
            inputs: Standard deviation of the noise on real-valued inputs.
        """

        labels: float = Field(default=0.5, ge=0, le=1)
        inputs: float = Field(default=0.0, ge=0)

    options: Options

    @override
    def learner(self) -> Learner:
        honest = self.stage.learner
        noisy = NoisyFamily(honest.family, self.options.labels, self.options.inputs)
        return Learner(honest.workload, noisy, honest.algorithm)


class NoisyFamily:
    """A task family that corrupts the tasks of another.

    Args:
        family: The clean family.
        labels: See `NoisyData.Options`.
        inputs: See `NoisyData.Options`.
    """

    Options: ClassVar[type[options.Options]] = options.Options

    def __init__(self, family: TaskFamily, labels: float, inputs: float) -> None:
        self.family = family
        self.spec = family.spec
        self.population = family.population
        self.labels = labels
        self.inputs = inputs

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        """Draw tasks from the clean family, then corrupt them."""
        tasks = self.family.sample(client, count, rng)
        return TaskBatch(self._spoil(tasks.support, rng), self._spoil(tasks.query, rng))

    def _spoil(self, examples: Examples, rng: np.random.Generator) -> Examples:
        spoilt = dict(examples)
        if "x" in examples:
            spoilt["x"] = self._spoil_inputs(examples["x"], rng)
        if "y" in examples:
            spoilt["y"] = self._spoil_labels(examples["y"], rng)
        return spoilt

    def _spoil_labels(self, labels: Tensor, rng: np.random.Generator) -> Tensor:
        count, examples = labels.shape[:2]
        wrong = rng.random((count, examples)) < self.labels
        others = rng.integers(0, examples, (count, examples))
        source = np.where(wrong, others, np.arange(examples))
        return labels[torch.arange(count)[:, None], torch.from_numpy(source)]

    def _spoil_inputs(self, inputs: Tensor, rng: np.random.Generator) -> Tensor:
        if not self.inputs or not inputs.is_floating_point():
            return inputs
        noise = torch.from_numpy(rng.standard_normal(inputs.shape, dtype=np.float32))
        return inputs + self.inputs * noise
