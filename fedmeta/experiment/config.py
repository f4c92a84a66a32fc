"""One experiment's configuration: every key, its default, and what it means."""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, Field, field_validator, model_validator

from fedmeta.chain.options import ChainOptions
from fedmeta.errors import ConfigError
from fedmeta.experiment.compare.options import CompareOptions
from fedmeta.federation import (
    AggregationOptions,
    DeploymentOptions,
    FaultOptions,
    GateOptions,
    RayOptions,
    ServerOptions,
)
from fedmeta.incentives.options import IncentiveOptions
from fedmeta.options import Options, attribute_docs, nearest, parse_options


class EvaluationOptions(Options):
    """How held-out clients are evaluated.

    Attributes:
        tasks: Tasks that each held-out client is tested on.
        steps: Adaptation steps to report.
        every: Rounds between evaluations of the validation clients; 0: never.
        track: Rounds between looks at the test clients, for curves alone: nothing is chosen by them;
            0: never.
        track_tasks: Tasks of each test client in such a look.
    """

    tasks: int = Field(100, ge=2)
    steps: tuple[int, ...] = Field((0, 1, 3, 5, 10), strict=False)
    every: int = Field(0, ge=0)
    track: int = Field(0, ge=0)
    track_tasks: int = Field(20, ge=2)

    @field_validator("steps")
    @classmethod
    def _increasing(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if not steps or steps[0] < 0 or sorted(set(steps)) != list(steps):
            raise ValueError("must be increasing step counts from 0 on")
        return steps


class Config(Options):
    """A run is a function of these values and nothing else.

    Attributes:
        description: What the experiment shows.
        task: Task family: a name or a dotted path.
        algorithm: Meta-learning algorithm: a name or a dotted path.
        training: Who learns together: ``federated``, clients through a server; ``centralized``, one
            learner with the tasks of all; ``local``, each client alone.
        model: Network: a name, or the dotted path of a torch.nn.Module.
        rounds: Federated rounds.
        clients: All clients, those held out included.
        validation_clients: Clients held out to choose by.
        test_clients: Clients held out to report on.
        cohort: Training clients a round.
        oversample: Training clients asked beyond the cohort; the first ``cohort`` sound replies count.
        quorum: Admitted replies a round needs; 0: half the cohort.
        timeout: Seconds to wait for a round's replies.
        tasks_per_client: Tasks of each client and local step.
        local_steps: Meta-steps a client takes before it replies.
        local_lr: Step size of those local meta-steps.
        transductive: Batch norm takes statistics from the query set.
        dtype: Of state and updates.
        engine: Where clients run: ``vector``, in this process; ``ray``, Flower's simulation engine;
            ``deployment``, SuperNodes of a SuperLink.
        workers: Processes that compute chunks.
        compile: Compile the task updates (needs a C++ compiler).
        tracking: Where metrics go besides the run's folder; each needs its extra.
        seed: Of everything random.
        checkpoint_every: Rounds between checkpoints.
        data: Options of the task family.
        network: Options of the model.
        learner: Options of the algorithm.
        server: The server's optimizer.
        gate: What a reply must satisfy.
        aggregation: How admitted updates become one.
        behaviours: Clients that do not do their part: tables of kind, clients and options.
        faults: What goes wrong by plan.
        evaluation: Of held-out clients.
        incentives: What updates are worth.
        chain: The optional ledger.
        compare: Of `fedmeta compare` alone.
    """

    description: str = ""
    task: str
    algorithm: str
    model: str
    training: Literal["federated", "centralized", "local"] = "federated"
    rounds: int = Field(ge=1)
    clients: int
    validation_clients: int = Field(0, ge=0)
    test_clients: int = Field(0, ge=0)
    cohort: int = Field(ge=1)
    oversample: int = Field(0, ge=0)
    quorum: int = Field(0, ge=0)
    timeout: float = Field(600.0, gt=0)
    tasks_per_client: int = Field(1, ge=1)
    local_steps: int = Field(1, ge=1)
    local_lr: float = Field(0.01, gt=0)
    transductive: bool = True
    dtype: Literal["float32", "float64"] = "float32"
    engine: Literal["vector", "ray", "deployment"] = "vector"
    workers: int | Literal["auto"] = "auto"
    compile: bool = False
    tracking: Literal["none", "tensorboard", "mlflow"] = "none"
    seed: int = Field(0, ge=0, lt=2**63)
    checkpoint_every: int = Field(1, ge=1)
    data: dict[str, Any] = Field(default_factory=dict)
    network: dict[str, Any] = Field(default_factory=dict)
    learner: dict[str, Any] = Field(default_factory=dict)
    server: ServerOptions = ServerOptions()
    gate: GateOptions = GateOptions()
    aggregation: AggregationOptions = AggregationOptions()
    behaviours: list[dict[str, Any]] = Field(default_factory=list)
    faults: FaultOptions = FaultOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
    incentives: IncentiveOptions = IncentiveOptions()
    chain: ChainOptions = ChainOptions()
    ray: RayOptions = RayOptions()
    deployment: DeploymentOptions = DeploymentOptions()
    compare: CompareOptions = CompareOptions()

    @field_validator("clients")
    @classmethod
    def _some_clients(cls, clients: int) -> int:
        if clients < 1:
            raise ValueError("a federation needs at least one client")
        return clients

    @field_validator("workers")
    @classmethod
    def _some_workers(cls, workers: int | str) -> int | str:
        if isinstance(workers, int) and workers < 1:
            raise ValueError("must be 'auto' or at least 1")
        return workers

    @model_validator(mode="after")
    def _cohort_fits(self) -> "Config":
        training = self.clients - self.validation_clients - self.test_clients
        if training < 1:
            raise ValueError(
                f"clients = {self.clients} leaves nobody to train: {self.validation_clients} are held "
                f"out for validation and {self.test_clients} for test"
            )
        if self.cohort + self.oversample > training:
            more = f" + oversample = {self.oversample}" if self.oversample else ""
            raise ValueError(
                f"cohort = {self.cohort}{more} is larger than the population of "
                f"{training} training clients"
            )
        if self.quorum > self.cohort:
            raise ValueError(f"quorum = {self.quorum} is larger than cohort = {self.cohort}")
        if self.training == "federated":
            self.aggregation.check(self.quorum or (self.cohort + 1) // 2)
        if self.evaluation.every and not self.validation_clients:
            raise ValueError("evaluation.every needs validation_clients of at least 1")
        if self.evaluation.track and not self.test_clients:
            raise ValueError("evaluation.track needs test_clients of at least 1")
        return self

    @model_validator(mode="after")
    def _faults_can_be_played(self) -> "Config":
        if self.faults.any and self.engine != "vector":
            raise ValueError(f"faults need engine = 'vector', not '{self.engine}'")
        return self

    @model_validator(mode="after")
    def _clients_can_sign(self) -> "Config":
        if self.engine == "deployment" and self.chain.enabled:
            raise ValueError(
                "chain.provider: nodes of a deployment do not sign their replies yet: unset it"
            )
        return self

    @model_validator(mode="after")
    def _federation_is_there(self) -> "Config":
        if self.training == "federated":
            return self
        asked = {
            "incentives.rule": self.incentives.rule != "none",
            "chain.provider": self.chain.enabled,
            "behaviours": bool(self.behaviours),
            "faults": self.faults.any,
        }
        for key in (key for key, is_asked in asked.items() if is_asked):
            raise ValueError(f"training = '{self.training}' has no server and no replies: unset {key}")
        return self

    @model_validator(mode="after")
    def _pots_are_covered(self) -> "Config":
        chain, rule = self.chain, self.incentives.rule
        if self.incentives.needs_held_out and not self.validation_clients:
            raise ValueError(
                f"incentives.rule = '{rule}' needs validation_clients of at least 1, "
                "whose tasks the server measures updates on"
            )
        if self.incentives.needs_held_out and self.aggregation.rule != "mean":
            raise ValueError(
                f"incentives.rule = '{rule}' measures means of updates: "
                "it needs aggregation.rule = 'mean'"
            )
        if chain.enabled and chain.budget and chain.budget < chain.pot * self.rounds:
            raise ValueError(
                f"chain.budget = {chain.budget} is smaller than {self.rounds} pots of "
                f"chain.pot = {chain.pot} tokens"
            )
        return self


def simulations_folder() -> Path:
    """Return the folder of the experiments that come with fedmeta."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_simulations"
    return installed if installed.is_dir() else package.parent / "simulations"


def experiment_names() -> list[str]:
    """Return the names of the experiments that come with fedmeta."""
    return sorted(path.stem for path in simulations_folder().glob("*.toml"))


def find_experiment(name: str) -> Path:
    """Return the file of an experiment: one of ours by name, or a path to a TOML file.

    Raises:
        ConfigError: If there is no such name or file.
    """
    if name in experiment_names():
        return simulations_folder() / f"{name}.toml"
    path = Path(name)
    if path.suffix == ".toml" or len(path.parts) > 1:
        if path.is_file():
            return path
        raise ConfigError(f"no experiment file at '{name}'{', but a folder' if path.is_dir() else ''}")
    raise ConfigError(f"unknown experiment '{name}': {nearest(name, experiment_names())}")


def load_config(name: str, settings: Mapping[str, Any] | None = None) -> Config:
    """Read an experiment by name or path.

    Args:
        name: A name from `experiment_names`, or the path of a TOML file.
        settings: Values that replace those of the file, by dotted key (``{"server.lr": 0.01}``).

    Raises:
        ConfigError: If it does not exist, is not TOML, or holds an unknown key or a bad value.
    """
    path = find_experiment(name)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: {error}") from None
    return parse_options(Config, merge(values, settings or {}))


def merge(values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with each dotted key of `settings` replaced.

    Raises:
        ConfigError: If a dotted key goes through something that is no table.
    """
    merged: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    for key, value in settings.items():
        *tables, last = key.split(".")
        here = merged
        for depth, table in enumerate(tables):
            inner = here.get(table, {})
            if not isinstance(inner, Mapping):
                path = ".".join(tables[: depth + 1])
                raise ConfigError(f"unknown key '{key}': '{path}' is a value, not a table")
            here[table] = here = dict(inner)
        here[last] = value
    return merged


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """Parse ``key=value`` pairs of the command line; a value is TOML, or else plain text.

    Raises:
        ConfigError: If a pair has no ``=`` or no key.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"-s {pair}: expected key=value, such as -s rounds=100")
        try:
            settings[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            settings[key.strip()] = text
    return settings


def read_fault_file(path: Path) -> dict[str, Any]:
    """Read a file that holds the keys of a ``[faults]`` table, or such a table.

    Raises:
        ConfigError: If there is none, or it is not TOML; the nearest file beside it is named.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        beside = [other.name for other in path.parent.glob("*.toml")]
        hint = f": {nearest(path.name, beside)}" if beside else ""
        raise ConfigError(f"no fault plan at '{path}'{hint}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: {error}") from None
    table = values.get("faults", values)
    return dict(table) if isinstance(table, Mapping) else values


def to_toml(config: Config) -> str:
    """Write a config as TOML that `load_config` reads back as an equal one."""
    return tomli_w.dumps(_without_none(config.model_dump(mode="json")))


def from_toml(text: str) -> Config:
    """Read back what `to_toml` wrote.

    Raises:
        ConfigError: If it is something else.
    """
    try:
        return parse_options(Config, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"no config: {error}") from None


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    # TOML has no null; an absent key means the same to every option that may be None.
    return {key: _value(value) for key, value in table.items() if value is not None}


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return [_value(one) for one in value]
    return _without_none(value) if isinstance(value, dict) else value


def describe_keys() -> list[tuple[str, str, str]]:
    """Return (key, default, meaning) of every key of the config, nested ones by dotted path."""
    return list(_describe(Config, ""))


def _describe(kind: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    meanings = attribute_docs(kind)
    for name, spec in kind.model_fields.items():
        if isinstance(spec.annotation, type) and issubclass(spec.annotation, BaseModel):
            yield from _describe(spec.annotation, f"{prefix}{name}.")
            continue
        default = "(required)"
        if not spec.is_required():
            default = str(spec.get_default(call_default_factory=True))
        yield f"{prefix}{name}", default, meanings.get(name, "")
