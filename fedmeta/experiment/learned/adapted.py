"""A model that has been adapted to a support set."""

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from fedmeta.errors import DivergedError, UsageError
from fedmeta.experiment.learned.arrays import to_inputs
from fedmeta.files import to_json, write_atomically
from fedmeta.learning import Algorithm, Tensors, expand_state
from fedmeta.learning.inner import SUPPORT_X
from fedmeta.learning.models.export import Network, to_plain

ArrayT = TypeVar("ArrayT", Tensor, NDArray[Any])

CHUNK = 128
"""Examples that are predicted at once, so that memory does not grow with their number."""


@dataclass(frozen=True)
class Learner:
    """What a run's model computes with.

    Attributes:
        algorithm: How it adapts and predicts.
        network: Its model, as plain values.
        state: The meta-learned state, without a task axis.
        dtype: Of real inputs.
        about: Where it comes from, for the metadata of files.
    """

    algorithm: Algorithm
    network: Network
    state: Tensors
    dtype: torch.dtype
    about: dict[str, Any]


@dataclass(frozen=True)
class Adapted:
    """A run's model after it was adapted; made by `Learned.adapt`.

    Attributes:
        learner: What it was adapted from.
        values: What the algorithm's `adapt` returned, with a task axis of one.
        classes: What each column of the probabilities stands for, in order; None in regression and text.
        steps: Adaptation steps.
        transductive: Whether batch norm takes its statistics from the examples to predict.
    """

    learner: Learner
    values: Tensors
    classes: tuple[Hashable, ...] | None
    steps: int
    transductive: bool

    @property
    def weights(self) -> Tensors:
        """The adapted values, without a task axis: weights, or an algorithm's own such as prototypes."""
        return {key: value[0] for key, value in self.values.items() if key != SUPPORT_X}

    @torch.no_grad()
    def predict(self, x: ArrayT) -> ArrayT:
        """Return what the adapted model says of new examples.

        Args:
            x: Examples ``[B, *input_shape]``; an array or a tensor.

        Returns:
            Probabilities ``[B, len(classes)]`` (for text ``[B, length, outputs]``), or the values
            ``[B, outputs]`` of a regression, as an array or a tensor like `x`.

        Raises:
            UsageError: If `x` does not fit the model.
            DivergedError: If the adapted weights say nothing finite.
        """
        spec = self.learner.algorithm.spec
        inputs = to_inputs(spec, self.learner.dtype, x, "x")
        size = len(inputs) if self.transductive else CHUNK
        chunks = [inputs[first : first + size] for first in range(0, len(inputs), size)]
        said = torch.cat([self._forward(chunk) for chunk in chunks])
        if not bool(said.isfinite().all()):
            raise DivergedError(f"the model diverged in {self.steps} adaptation steps: take fewer")
        if spec.kind == "classification":
            # Outputs beyond the classes stand for none, and get no chance.
            said = said[..., : len(self.classes) if self.classes else None].softmax(-1)
        return said if isinstance(x, Tensor) else said.numpy()

    def _forward(self, inputs: Tensor) -> Tensor:
        state = expand_state(self.learner.state, 1)
        algorithm = self.learner.algorithm
        return algorithm.predict(state, self.values, inputs.unsqueeze(0), self.transductive)[0]

    def save(self, path: Path | str) -> None:
        """Write the adapted weights as safetensors, in the layouts of `torch.nn` (see `Learned.export`).

        For `conv4` the file has the support set's statistics as the running ones of its batch norms, so
        that a plain network in evaluation mode predicts what `predict` does without transduction. What
        is no weight (a protonet's ``prototypes``) keeps its name. The metadata's ``about`` is a JSON
        object with the run, its round and algorithm, the classes and the steps.

        Raises:
            UsageError: If the file cannot be written.
        """
        own = self.weights
        weights = {key: own.get(key, value) for key, value in self._initial().items()}
        support = self.values.get(SUPPORT_X)
        seen = None if support is None else support[0]
        tensors = to_plain(self.learner.network, weights, seen).tensors
        tensors |= {key: value.contiguous() for key, value in own.items() if key not in weights}
        write_file(path, tensors, self.learner.about | {"classes": self.classes, "steps": self.steps})

    def _initial(self) -> Tensors:
        return model_weights(self.learner)


def model_weights(learner: Learner) -> Tensors:
    """Return the part of the meta-learned state that is the network's weights."""
    keys = learner.algorithm.model.init(torch.Generator()).keys()
    return {key: learner.state[key] for key in keys}


def write_file(path: Path | str, tensors: Tensors, about: dict[str, Any]) -> None:
    """Write tensors as safetensors, whole or not at all; the metadata's ``about`` is a JSON object.

    Raises:
        UsageError: If the file cannot be written.
    """
    try:
        # One entry, since the format keeps several in no fixed order.
        data = save(tensors, {"about": to_json(about, default=str)})
        write_atomically(Path(path), data)
    except OSError as error:
        raise UsageError(f"cannot write to {path}: {error.strerror}") from None
