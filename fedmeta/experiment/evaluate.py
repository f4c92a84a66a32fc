"""Evaluates a trained model on tasks of another shape, or of another family."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmeta.config import Config, merge
from fedmeta.config.identity import in_use, is_within
from fedmeta.config.parts import require_parts
from fedmeta.errors import ConfigError, UsageError
from fedmeta.experiment.swap import swapped
from fedmeta.files import finite
from fedmeta.options import declared, nearest, parse_options
from fedmeta.parts import FAMILIES

if TYPE_CHECKING:
    from fedmeta.experiment.learned.model import Learned
    from fedmeta.experiment.streams import Streams
    from fedmeta.federation import Learner, StepResult

_WITH_ANOTHER_TASK = ("task", "data", "clients", "validation_clients", "test_clients", "seed")


@dataclass(frozen=True)
class Evaluated:
    """Results of a trained model on test clients.

    Attributes:
        run: The run's folder.
        round: The round of its checkpoint.
        settings: What differs from the run's config, by dotted key.
        steps: Means over the tasks of all test clients, with intervals, by adaptation step.
        clients: The same for each test client.
        streams: Results on streams; None: ``evaluation.stream`` has none.
    """

    run: Path
    round: int
    settings: Mapping[str, Any]
    steps: "tuple[StepResult, ...]"
    clients: "Mapping[int, tuple[StepResult, ...]]"
    streams: "Streams | None" = None

    def to_json(self) -> dict[str, Any]:
        """Return the results as plain values; a number that is not finite is None."""
        values: dict[str, Any] = finite(
            {
                "run": str(self.run),
                "round": self.round,
                "settings": dict(self.settings),
                "final": [step.to_json() for step in self.steps],
                "clients": {
                    str(client): [step.to_json() for step in steps]
                    for client, steps in self.clients.items()
                },
                **({"streams": self.streams.model_dump()} if self.streams else {}),
            }
        )
        return values


def config_to_evaluate(config: Config, settings: Mapping[str, Any]) -> Config:
    """Return a run's config with other test tasks; torch is not imported.

    Keys that decide what is learned stay as they are, and so do those that decide which data are held
    out, unless another task is set: then all options of its data may be.

    Raises:
        ConfigError: If a key must stay, is unknown, or has an invalid value.
    """
    # Nothing trains here, so the population need not suffice for it.
    idle = {"compare": {}, "rounds": 0, "cohort": 1, "quorum": 0, "oversample": 0, "compile": False}
    # The model may come from a machine that had a compiler.
    idle |= {"kernels": "auto"} if config.kernels == "native" else {}
    changes = merge(config.model_dump() | idle, in_use(config, "federated"))
    other = settings.get("task", config.task) != config.task
    changes |= {"validation_clients": 0} if other else {}
    may = [one.path for one in declared(Config) if one.key.evaluation]
    options = FAMILIES.options(config.task)
    data = {f"data.{one.path}": one.key.evaluation for one in declared(options)} if options else {}
    may += [key for key, evaluation in data.items() if evaluation]
    may = [*may, *_WITH_ANOTHER_TASK] if other else [*may, "task"]
    for key in settings:
        if not is_within(key, may):
            raise ConfigError(_refusal(key, may, list(data), other))
    found = parse_options(Config, swapped(changes, settings)[0])
    require_parts(found)
    if not found.test_clients:
        raise ConfigError("test_clients = 0: there is no test client; set test_clients")
    return found


def _refusal(key: str, may: list[str], data: list[str], other: bool) -> str:
    known = {one.path for one in declared(Config)}
    table = key.partition(".")[0]
    if key not in known and table not in known:
        return f"unknown key '{key}': {nearest(key, may)}"
    if data and table == "data" and key not in {"data", *data}:
        return f"unknown key '{key}': {nearest(key, data)}"
    tables = ", ".join(one for one in may if not is_within(one, [rest for rest in may if rest != one]))
    if not other and is_within(key, list(_WITH_ANOTHER_TASK)):
        return (
            f"{key}: it decides which data are held out, so the test could contain training data; "
            f"without another task, set one of {tables}"
        )
    return f"{key}: it decides what the run learned; an evaluation may set {tables}"


def evaluate(learned: "Learned", settings: Mapping[str, Any] | None = None) -> Evaluated:
    """Evaluate a trained model on the test clients of its config with other settings.

    Without settings, the tasks and results are those of the run's own final test.

    Args:
        learned: The trained model.
        settings: Values by dotted key, such as ``{"data.test_ways": 20}`` or ``{"task": "mnist"}``.

    Raises:
        ConfigError: As `config_to_evaluate`; or if the model does not fit the tasks.
        DataError: If data cannot be read.
        RunError: If no test client could be evaluated.
    """
    from fedmeta.experiment import planning
    from fedmeta.experiment.checkpoint import misfit
    from fedmeta.experiment.streaming import measure_streams
    from fedmeta.federation import Federation, merge
    from fedmeta.federation.engines.vector import open_vector

    settings = settings or {}
    config = planning.resolve(config_to_evaluate(learned.config, settings))
    learner = planning.check(config, trial=False)
    learned.restore_constants(learner.algorithm.model)
    if wrong := misfit(learned.state, learner.template):
        raise UsageError(
            f"{learned.path}: the model does not fit these tasks: {_why_not(learned, learner) or wrong}"
        )
    with open_vector(learner) as grid:
        federation = Federation(learner, grid, in_turn=True)
        sums = federation.test(learned.state, "test", config.timeout)
    streams = None
    if config.evaluation.stream.segments:
        clients = learner.workload.population.clients("test")
        streams = measure_streams(config, learner, dict.fromkeys(clients, learned.state))
    steps, measures = config.evaluation.steps, learner.evaluation_measures
    return Evaluated(
        learned.path,
        learned.round,
        settings,
        merge(steps, sums.values(), measures, config.test_clients),
        {client: merge(steps, [one], measures) for client, one in sums.items()},
        streams,
    )


def _why_not(learned: "Learned", learner: "Learner") -> str | None:
    """Return why a model cannot read or answer tasks, in terms of their shapes; None: no such reason."""
    ours, theirs = learned.spec, learner.family.spec
    if theirs.input_shape != ours.input_shape:
        return f"its inputs have shape {list(ours.input_shape)}, and theirs {list(theirs.input_shape)}"
    if theirs.outputs != ours.outputs:
        return f"it has {ours.outputs} outputs, and they need {theirs.outputs}"
    return None
