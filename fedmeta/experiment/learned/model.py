"""`Learned`: a run's trained model, ready to adapt to new data."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import TypeAdapter, ValidationError

from fedmeta.config import Config, parts
from fedmeta.config.trust import require_code
from fedmeta.errors import DivergedError, UsageError
from fedmeta.experiment import planning
from fedmeta.experiment.checkpoint import DamagedCheckpointError, misfit
from fedmeta.experiment.evaluate import Evaluated, evaluate
from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.learned.adapted import (
    Adapted,
    Array,
    Targets,
    TrainedModel,
    model_weights,
    to_inputs,
    to_targets,
    write_file,
)
from fedmeta.experiment.planning import model_per_client
from fedmeta.experiment.rows import MetricsRow
from fedmeta.federation import Snapshot
from fedmeta.learning import (
    ALGORITHMS,
    Model,
    Tensors,
    build_algorithm,
    expand_state,
    place,
    use_device,
)
from fedmeta.learning.device import choose_device
from fedmeta.learning.export import Network, Plain, to_plain
from fedmeta.learning.module import ModuleModel
from fedmeta.learning.native.kernel import available as kernels_available
from fedmeta.learning.setup import algorithm_kind
from fedmeta.tasks import OBJECTIVES, TaskSpec, build_family, shape_of_tasks
from fedmeta.tasks.policy_gradient import PolicyGradient


class Learned:
    """A run's meta-learned model.

    Args:
        folder: The run's folder.
        snapshot: The checkpoint to use.
        notes: Findings such as damaged checkpoints, one line each.
        device: Device to adapt and predict on: ``cpu``, ``cuda``, or ``auto`` for a GPU if available.

    Raises:
        UsageError: If the checkpoint does not fit the run's config, or has a model per client.
        ConfigError: If a part with a dotted path cannot be imported, or the device is not available.
        DataError: If an old run did not record the shape of its tasks, and its data are missing.
    """

    def __init__(
        self,
        folder: RunFolder,
        snapshot: Snapshot,
        notes: tuple[str, ...] = (),
        device: str = "cpu",
    ) -> None:
        self.folder = folder
        self.config: Config = folder.config
        self.round = snapshot.round
        self.state: Tensors = snapshot.state
        self.constants: Tensors = snapshot.constants
        self.notes = notes
        self.device = use_device(choose_device(device))
        if model_per_client(self.config):
            raise UsageError(f"{folder.path} has one model per client and no common one to adapt")
        self.spec = _spec(folder, self.config)
        self._trained = self._build()

    @classmethod
    def open(
        cls,
        path: Path | str,
        best: bool = False,
        *,
        trust_code: bool = False,
        device: str = "cpu",
    ) -> Self:
        """Load a run's latest valid checkpoint, whether the run has finished or not.

        Args:
            path: The run's folder.
            best: Use the checkpoint with the best score (see `fedmeta.experiment.recorder.score`).
            trust_code: Run code that the config names, although the folder was not made here.
            device: Device to adapt and predict on: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is
                one. Arrays and tensors may be on any device.

        Raises:
            UsageError: If there is no such run, no checkpoint of it can be used, or the folder was not
                made here and names code.
        """
        folder = RunFolder.open(Path(path))
        require_code(folder.path, folder.config, trust_code)
        snapshot, notes = _checkpoint(folder, best)
        return cls(folder, snapshot, tuple(notes), device)

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    @property
    def final(self) -> list[dict[str, Any]]:
        """The test clients' results by adaptation step; empty if the run has not been tested."""
        final = self.folder.info.get("final")
        return final if isinstance(final, list) else []

    @property
    def metrics(self) -> list[MetricsRow]:
        """The rows of ``metrics.jsonl``, one per round."""
        return self.folder.metrics()

    @property
    def max_ways(self) -> int | None:
        """Largest number of classes that the model supports; None: no limit."""
        return self._trained.algorithm.max_ways

    def adapt(
        self,
        support_x: Array,
        support_y: Array,
        steps: int | None = None,
        transductive: bool = False,
        head: str | None = None,
    ) -> Adapted:
        """Adapt to a support set.

        Args:
            support_x: Examples ``[S, *input_shape]``.
            support_y: A label per example, of any sortable type; classes may differ in size. With
                ``data.labels = "global"``, and of a table, labels are the numbers of outputs; those of a
                screening are ``inactive`` and ``active``, or 0 and 1. For text ``[S, length]`` or
                ``[S]``; for regression ``[S, outputs]``.
            steps: Adaptation steps; None: the last of the run's ``evaluation.steps``. Algorithms
                without an inner loop ignore it.
            transductive: Whether batch norm takes its statistics from all examples of one `predict`. By
                default it uses those of the support set, so that a prediction does not depend on the
                other examples.
            head: A scikit-learn estimator, such as ``"sklearn.svm.SVC(C=10)"``, to fit to the support
                set's features in place of adaptation; None: that of ``evaluation.head``, if any.

        Raises:
            ConfigError: If `head` does not describe an estimator for these tasks.
            UsageError: If the examples do not fit the run, or have too many classes; or its tasks have
                no support set of examples with targets.
            DivergedError: If the weights became non-finite.
        """
        self._require_support()
        steps = self.config.evaluation.steps[-1] if steps is None else steps
        if steps < 0:
            raise UsageError(f"steps must be 0 or more (got {steps})")
        x = to_inputs(self.spec, self._trained.dtype, support_x, "support_x")
        trained = self._trained if head is None else self._build(head)
        algorithm = trained.algorithm
        targets = to_targets(algorithm.objective, trained.dtype, support_y, len(x))
        targets = self._numbered(targets, algorithm.max_ways)
        state = expand_state(self._trained.state, 1)
        support = place({"x": x.unsqueeze(0), "y": targets.y.unsqueeze(0)}, self.device)
        values = algorithm.adapt(state, support, steps)
        if not all(bool(value.isfinite().all()) for value in values.values()):
            raise DivergedError(f"the weights diverged in {steps} adaptation steps: take fewer")
        return Adapted(trained, values, targets.classes, steps, transductive, support)

    def evaluate(self, settings: Mapping[str, Any] | None = None) -> Evaluated:
        """Evaluate on the run's test clients, on tasks of another shape, or on another family's.

        Without settings, the tasks and results are those of the run's own final test. Settings that
        decide what was learned or which data were held out are refused.

        Args:
            settings: Values by dotted key, such as ``{"data.test_ways": 20}`` or ``{"task": "mnist"}``.

        Raises:
            ConfigError: If a setting is not allowed or invalid.
            UsageError: If the model does not fit the tasks.
            DataError: If data cannot be read.
            RunError: If no test client could be evaluated.
        """
        return evaluate(self, settings)

    def export(self, path: Path | str | None = None) -> Plain:
        """Return the meta-learned weights as a `state_dict` of a plain `torch.nn` network.

        Other tensors in the state, such as Meta-SGD's learning rates, are left out; see
        `beside_weights`.

        Args:
            path: Safetensors file to write the tensors to; None: do not write them.

        Raises:
            UsageError: If the file cannot be written.
        """
        plain = to_plain(self._trained.network, model_weights(self._trained))
        if path is not None:
            write_file(path, plain.tensors, self._trained.about)
        return plain

    @property
    def beside_weights(self) -> list[str]:
        """Names in the state that are not weights of the network."""
        return sorted(self.state.keys() - model_weights(self._trained).keys())

    def _build(self, head: str | None = None) -> TrainedModel:
        config = self.config
        # `compile` does not affect adapting; and there may be no compiler here, or another device.
        setup = replace(planning.workload(config).setup, compile=False)
        setup = setup if head is None else replace(setup, head=head)
        if self.device.type != "cpu" or not kernels_available():
            setup = replace(setup, kernels="eager")
        algorithm = build_algorithm(setup, self.spec, config.seed)
        self.restore_constants(algorithm.model)
        dtype: torch.dtype = getattr(torch, config.dtype)
        drawn = algorithm.init(torch.Generator())
        wanted = {k: v.to(dtype) if v.is_floating_point() else v for k, v in drawn.items()}
        if wrong := misfit(self.state, wanted):
            raise UsageError(
                f"{self.path}: the checkpoint of round {self.round} does not fit the config: {wrong}"
            )
        outputs = algorithm_kind(config.algorithm).model_outputs(self.spec)
        network = Network(config.model, config.network, self.spec, outputs, algorithm.model)
        about = {"run": self.path.name, "round": self.round, "algorithm": config.algorithm}
        state = place(self.state, self.device)
        return TrainedModel(algorithm, network, state, dtype, about, self.device, setup.head)

    def restore_constants(self, model: Model) -> None:
        """Restore a module's frozen parameters and buffers, which old checkpoints do not have."""
        if not self.constants or not isinstance(model, ModuleModel):
            return
        if {key: (v.shape, v.dtype) for key, v in model.constants.items()} != {
            key: (v.shape, v.dtype) for key, v in self.constants.items()
        }:
            raise UsageError(f"{self.path}: the checkpoint of round {self.round} does not fit the model")
        model.constants = self.constants

    def _require_support(self) -> None:
        objective = self._trained.algorithm.objective
        if isinstance(objective, PolicyGradient) or not objective.has_support:
            have = "sequences" if objective.labels else "episodes"
            raise UsageError(
                f"{self.path}: its tasks are {have}, which have no support set of examples and targets "
                "to adapt to; `fedmeta evaluate` tests it"
            )

    def _numbered(self, targets: Targets, most: int | None) -> Targets:
        """Check the classes, and map them to the network's outputs if these are fixed."""
        classes = targets.classes
        if classes is None:
            return targets
        if len(classes) < 2:
            raise UsageError(f"the support set has only one class, '{classes[0]}'")
        if most is None:
            return targets
        fixed = self.config.data.get("labels") == "global" or self.config.task == "table"
        if fixed or self._trained.algorithm.objective.class_names:
            return self._by_output(targets)
        if len(classes) > most:
            free = [name for name in ALGORITHMS if getattr(ALGORITHMS.get(name), "any_ways", False)]
            raise UsageError(
                f"{len(classes)} classes, but this run's network has {most} outputs: give it {most} or "
                f"fewer, or train with an algorithm that has no limit: {', '.join(free)}"
            )
        return targets

    def _by_output(self, targets: Targets) -> Targets:
        classes = targets.classes or ()
        outputs = range(self.spec.outputs)
        names = self._trained.algorithm.objective.class_names
        try:
            numbers = [names.index(name) if name in names else int(str(name)) for name in classes]
        except ValueError:
            numbers = [-1]
        if not all(number in outputs for number in numbers) or len(set(numbers)) < len(numbers):
            how = f"call them {' and '.join(map(repr, names))}, or" if names else "name classes"
            raise UsageError(
                "this run's labels mean the same in every task: "
                f"{how} by number, from 0 to {outputs[-1]}"
            )
        y = torch.tensor(numbers)[targets.y]
        known = dict(zip(numbers, classes, strict=True))
        kind = type(classes[0])
        return Targets(y, tuple(known.get(output, kind(output)) for output in outputs))  # type: ignore[call-arg]


def _checkpoint(folder: RunFolder, best: bool) -> tuple[Snapshot, list[str]]:
    notes: list[str] = []
    for candidate in _candidates(folder):
        if isinstance(candidate, DamagedCheckpointError):
            notes.append(f"{candidate}: not used")
            continue
        snapshot, manifest = candidate
        if best and manifest.best_round is not None:
            try:
                return folder.checkpoints.load(manifest.best_round)[0], notes
            except DamagedCheckpointError as error:
                raise UsageError(f"{error}: the best checkpoint cannot be used") from None
        if best:
            notes.append(f"no round has a score to choose the best by: using round {snapshot.round}")
        return snapshot, notes
    why = f": {notes[0]}" if notes else ": no round was finished"
    raise UsageError(f"{folder.path} has no checkpoint to load{why}")


def _candidates(folder: RunFolder) -> Iterator[Any]:
    try:
        yield from folder.checkpoints.newest_first()
    except FileNotFoundError:
        return


def _spec(folder: RunFolder, config: Config) -> TaskSpec:
    """Return the shape of the run's tasks as recorded.

    Old runs need their data for it, and runs with a user's own objective their family: only the config
    decides which code runs.
    """
    found = folder.info.get("spec")
    if isinstance(found, dict):
        # Before objectives had names there were two, called kinds.
        found = {"objective" if key == "kind" else key: value for key, value in found.items()}
    try:
        spec = TypeAdapter(TaskSpec).validate_python(found)
        if spec.objective in OBJECTIVES:
            return spec
    except ValidationError:
        pass
    told = shape_of_tasks(config.task, config.data)
    if told is not None:
        return told
    return build_family(config.task, config.data, parts.population(config), config.seed).spec
