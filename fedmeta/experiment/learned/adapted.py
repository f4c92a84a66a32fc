"""Adapts a trained model to a support set of a user's arrays."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from fedmeta.errors import DivergedError, UsageError
from fedmeta.files import to_json, write_atomically
from fedmeta.learning import CPU, Algorithm, Tensors, expand_state, place
from fedmeta.learning.explain import ExplainedTask, SupportEvidence, support_evidence
from fedmeta.learning.export import Network, to_plain
from fedmeta.learning.inner import SUPPORT_X, WeightAdaptation
from fedmeta.tasks import Examples, Objective, TaskSpec

ArrayT = TypeVar("ArrayT", Tensor, NDArray[Any])

Array = Tensor | NDArray[Any] | Sequence[Any]
"""What a user may pass: a tensor, an array, or nested lists of numbers."""
CHUNK = 128
"""Examples predicted at once, so that memory does not grow with their number."""


@dataclass(frozen=True)
class TrainedModel:
    """A run's algorithm, model and state.

    Attributes:
        algorithm: How it adapts and predicts.
        network: Its model, as plain values.
        state: The meta-learned state, without a task axis.
        dtype: Dtype of real inputs.
        about: Its origin, for the metadata of files.
        device: Device to compute on, which has `state`.
        head: The scikit-learn estimator that is fitted in place of adaptation; empty: none.
    """

    algorithm: Algorithm
    network: Network
    state: Tensors
    dtype: torch.dtype
    about: dict[str, Any]
    device: torch.device = CPU
    head: str = ""


@dataclass(frozen=True)
class Adapted:
    """A run's model after adaptation, made by `Learned.adapt`.

    Attributes:
        trained: The model that was adapted.
        values: Result of the algorithm's `adapt`, with a task axis of size 1.
        classes: The class of each column of the probabilities; None for regression and text.
        steps: Adaptation steps.
        transductive: Whether batch norm takes its statistics from the examples to predict.
        support: The support set, ``[1, S, ...]``.
    """

    trained: TrainedModel
    values: Tensors
    classes: tuple[Hashable, ...] | None
    steps: int
    transductive: bool
    support: Examples

    @property
    def weights(self) -> Tensors:
        """The adapted values without a task axis: weights, or others such as prototypes."""
        return {key: value[0] for key, value in self.values.items() if key != SUPPORT_X}

    @torch.no_grad()
    def predict(self, x: ArrayT) -> ArrayT:
        """Predict new examples.

        Args:
            x: Examples ``[B, *input_shape]``; an array or a tensor.

        Returns:
            Probabilities ``[B, len(classes)]`` (for text ``[B, length, outputs]``), or the values
            ``[B, outputs]`` of a regression, as an array or a tensor like `x`.

        Raises:
            UsageError: If `x` does not fit the model.
            DivergedError: If predictions are not finite.
        """
        spec = self.trained.algorithm.spec
        inputs = to_inputs(spec, self.trained.dtype, x, "x")
        size = len(inputs) if self.transductive else CHUNK
        chunks = [inputs[first : first + size] for first in range(0, len(inputs), size)]
        said = torch.cat([self._forward(chunk.to(self.trained.device)) for chunk in chunks])
        if not bool(said.isfinite().all()):
            raise DivergedError(f"the model diverged in {self.steps} adaptation steps: take fewer")
        if self.trained.algorithm.objective.labels:
            # Outputs beyond the classes are unused and get no probability.
            said = said[..., : len(self.classes) if self.classes else None].softmax(-1)
        return said.to(x.device) if isinstance(x, Tensor) else said.cpu().numpy()

    def explain(self, x: Array) -> SupportEvidence:
        """Return how much each support example speaks for the predictions of new examples.

        Args:
            x: Examples ``[B, *input_shape]``, as for `predict`.

        Returns:
            Values ``[B, S]``: the method's own weights, or by how much the probability of the predicted
            class falls if the method adapts without a support example.

        Raises:
            UsageError: If `x` does not fit the model.
            DataError: If predictions cannot be explained; the message says why.
        """
        inputs = to_inputs(self.trained.algorithm.spec, self.trained.dtype, x, "x")
        query = {"x": inputs.unsqueeze(0).to(self.trained.device)}
        task = ExplainedTask(
            self.trained.algorithm,
            expand_state(self.trained.state, 1),
            self.support,
            query,
            self.steps,
            self.transductive,
            len(self.classes) if self.classes else None,
        )
        found = support_evidence(task)
        return SupportEvidence(found.how, found.values.cpu())

    def _forward(self, inputs: Tensor) -> Tensor:
        state = expand_state(self.trained.state, 1)
        algorithm = self.trained.algorithm
        return algorithm.predict(state, self.values, {"x": inputs.unsqueeze(0)}, self.transductive)[0]

    def save(self, path: Path | str) -> None:
        """Write the adapted weights as safetensors, in the layout of `torch.nn` (see `Learned.export`).

        For `conv4`, the support set's statistics are the running statistics of the batch norms, so that
        a plain network in evaluation mode predicts the same as `predict` without transduction. Other
        values than weights (a protonet's ``prototypes``) keep their names. The metadata's ``about`` is a
        JSON object with the run, its round and algorithm, the classes and the steps.

        Raises:
            UsageError: If the file cannot be written, or a scikit-learn head takes the place of weights.
        """
        if self.trained.head:
            raise UsageError("a scikit-learn head has no adapted weights to save")
        own = place(self.weights, CPU)
        weights = {key: own.get(key, value) for key, value in model_weights(self.trained).items()}
        support = self.values.get(SUPPORT_X)
        seen = None if support is None else support[0].cpu()
        tensors = to_plain(self.trained.network, weights, seen).tensors
        tensors |= {key: value.contiguous() for key, value in own.items() if key not in weights}
        write_file(path, tensors, self.trained.about | {"classes": self.classes, "steps": self.steps})


def model_weights(trained: TrainedModel) -> Tensors:
    """Return the network's weights in the meta-learned state, or those that adaptation starts from."""
    algorithm, state = trained.algorithm, trained.state
    if isinstance(algorithm, WeightAdaptation):
        state = {**state, **algorithm.weights(state)}
    keys = algorithm.model.init(torch.Generator()).keys()
    return {key: state[key].cpu().contiguous() for key in keys}


def write_file(path: Path | str, tensors: Tensors, about: dict[str, Any]) -> None:
    """Write tensors as safetensors, atomically; the metadata's ``about`` is a JSON object.

    Raises:
        UsageError: If the file cannot be written.
    """
    try:
        # One entry, as the format has no fixed order of several.
        data = save(tensors, {"about": to_json(about, default=str)})
        write_atomically(Path(path), data)
    except OSError as error:
        raise UsageError(f"cannot write to {path}: {error.strerror}") from None


@dataclass(frozen=True)
class Targets:
    """The targets of a support set.

    Attributes:
        y: ``[S]`` or ``[S, length]``, int64 labels, or ``[S, outputs]`` values.
        classes: The class of each label; None for regression and tokens.
    """

    y: Tensor
    classes: tuple[Hashable, ...] | None = None


def to_inputs(spec: TaskSpec, dtype: torch.dtype, x: Array, name: str) -> Tensor:
    """Convert a user's examples to ``[B, *input_shape]``.

    Axes of size 1 may be missing or added, and a flat input may be given unflattened.

    Args:
        spec: The shape of the tasks.
        dtype: Dtype of real inputs; tokens are int64.
        x: The user's examples.
        name: Their name in messages.

    Raises:
        UsageError: If they cannot be the model's inputs.
    """
    values = _tensor(x, name)
    shape, got = spec.input_shape, list(values.shape)
    if not got or not got[0]:
        raise UsageError(f"{name} has no examples")
    if not _fits(tuple(got[1:]), shape):
        raise UsageError(f"{name} has shape {got}, but this run reads {['B', *shape]}")
    values = values.reshape(got[0], *shape)
    if not spec.vocabulary:
        if values.dtype == torch.uint8:
            raise UsageError(
                f"{name} is uint8: scale it to the real numbers that the run was trained on"
            )
        values = values.to(dtype)
        if not bool(values.isfinite().all()):
            raise UsageError(f"{name} holds numbers that are not finite")
        if spec.graph is not None and not spec.graph.holds(values):
            raise UsageError(f"{name} holds numbers that do not encode graphs; see fedmeta.tasks.graph")
        return values
    return _tokens(values, spec.vocabulary, name)


def to_targets(objective: Objective, dtype: torch.dtype, y: Array, examples: int) -> Targets:
    """Convert a user's targets for `examples` support examples.

    Raises:
        UsageError: If their number is wrong, or they do not fit the objective.
    """
    try:
        entries = len(y)
    except TypeError:
        raise UsageError("support_y must have an entry for each example of support_x") from None
    if entries != examples:
        raise UsageError(f"support_y has {entries} entries for {examples} examples of support_x")
    spec = objective.spec
    if not objective.labels:
        values = _tensor(y, "support_y").to(dtype)
        wanted = examples * spec.outputs if objective.numbers else values.numel()
        if values.numel() != wanted or not bool(values.isfinite().all()):
            raise UsageError(f"support_y must be {spec.outputs} finite numbers per example")
        return Targets(values.reshape(examples, -1) if objective.numbers else values)
    if spec.vocabulary:
        tokens = _tensor(y, "support_y")
        if tokens.shape[1:] not in {torch.Size([]), torch.Size(spec.input_shape)}:
            raise UsageError(f"support_y has shape {list(tokens.shape)}; see support_x")
        return Targets(_tokens(tokens, spec.outputs, "support_y"))
    labels = _labels(y)
    try:
        classes = tuple(sorted(set(labels)))
    except TypeError:
        raise UsageError("support_y must be labels of one type, all text or all numbers") from None
    number = {label: index for index, label in enumerate(classes)}
    return Targets(torch.tensor([number[label] for label in labels]), classes)


def _labels(y: Array) -> list[Any]:
    values = y.tolist() if isinstance(y, Tensor | np.ndarray) else list(y)
    if any(isinstance(value, list) for value in values):
        raise UsageError("support_y must be one label per example")
    return values


def _fits(got: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    without_ones = [side for side in got if side != 1] == [side for side in shape if side != 1]
    return without_ones or (len(shape) == 1 and math.prod(got) == shape[0])


def _tokens(values: Tensor, count: int, name: str) -> Tensor:
    if values.is_floating_point() or not bool(((values >= 0) & (values < count)).all()):
        raise UsageError(f"{name} must be tokens, integers from 0 to {count - 1}")
    return values.long()


def _tensor(x: Array, name: str) -> Tensor:
    if isinstance(x, Tensor):
        return x.detach().cpu()
    try:
        values = np.asarray(x)
        if values.dtype.kind not in "biuf":
            raise TypeError
        # A copy, as torch cannot use arrays with negative strides or read-only memory.
        return torch.from_numpy(values.copy())
    except (TypeError, ValueError):
        raise UsageError(f"{name} is not an array of numbers, or its rows differ in length") from None
