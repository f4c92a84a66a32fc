"""Config keys: types, defaults, meanings, and checks of what must fit together."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from typing_extensions import override

from fedmeta.chain.options import MOST_TOKENS, ChainOptions
from fedmeta.config.identity import in_use
from fedmeta.federation.aggregation import AggregationOptions
from fedmeta.federation.engines.deployment import DeploymentOptions
from fedmeta.federation.engines.ray import RayOptions
from fedmeta.federation.faults.plan import FaultOptions
from fedmeta.federation.round_plan import GateOptions, ServerOptions
from fedmeta.incentives.rules import INCENTIVE_RULES, IncentiveOptions
from fedmeta.options import Key, Options, declared, nearest
from fedmeta.parts import OPTION_TABLES, WAYS
from fedmeta.registry import name_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_ALSO_CALLED = {"cuda": "device", "gpu": "device", "epochs": "rounds"}
"""Keys by what other libraries call them."""


class CompareOptions(Options):
    """Target and arms of `fedmeta compare`; a single run ignores them.

    Attributes:
        target: Value of the main measure to reach (an accuracy; in regression a loss); None: `share` of
            the reference arm's final value.
        share: Share of the reference arm's final accuracy to reach; a loss is divided by it instead.
        step: Adaptation step at which the target is measured; None: the last of evaluation.steps.
        points: Evaluations of the test clients during a run, for curves.
        arms: Settings by arm: they change a built-in arm, or define a new one.
        built_in: Built-in arms to compare if no arms are named; None: all.
        search: Values to try, by config key; each arm that trains uses the combination with the best
            result on the validation clients, with the first seed.
        search_share: Share of an arm's rounds that such a trial takes.
    """

    target: float | None = None
    share: float = Field(0.95, gt=0, le=1)
    step: int | None = Field(None, ge=0)
    points: int = Field(25, ge=1)
    arms: dict[str, dict[str, Any]] = Field(default_factory=dict)
    built_in: list[str] | None = None
    search: dict[str, Any] = Field(default_factory=dict)
    search_share: float = Field(1.0, gt=0, le=1)

    @field_validator("arms")
    @classmethod
    def _plain_names(cls, arms: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name in arms:
            if not _NAME.fullmatch(name):
                raise ValueError(f"an arm's name has only letters, digits, - and _, unlike {name!r}")
        return arms


class StreamOptions(Options):
    """Streams of test clients' tasks, whose examples arrive in batches and are learned from.

    Attributes:
        segments: Segments of a stream, which are not announced to the learner; 0: there are no streams.
        drift: What a new segment brings: ``tasks``: another task of the client; ``classes``: further
            classes of one task; ``slow``: a small step of the same task, with families that can move.
        batch: Examples that arrive at once.
        streams: Streams per test client.
    """

    segments: int = Field(0, ge=0, le=50)
    drift: Literal["tasks", "classes", "slow"] = "tasks"
    batch: int = Field(1, ge=1)
    streams: int = Field(20, ge=1, le=1000)

    @field_validator("segments")
    @classmethod
    def _more_than_one(cls, segments: int) -> int:
        if segments == 1:
            raise ValueError("must be 0, for no streams, or 2 to 50")
        return segments


class EvaluationOptions(Options):
    """How held-out clients are evaluated.

    Attributes:
        tasks: Test tasks per held-out client.
        steps: Adaptation steps to report.
        every: Rounds between evaluations of the validation clients; 0: never.
        track: Rounds between evaluations of the test clients, for monitoring only; 0: never.
        track_tasks: Tasks per test client in such an evaluation.
        head: A scikit-learn estimator, such as ``"sklearn.svm.SVC(C=10)"``, that is fitted to each
            task's support set on the learned features in place of adaptation; empty: none.
        explain: Test tasks whose predictions are explained in the report; 0: none.
        stream: Streams of tasks.
    """

    tasks: int = Field(100, ge=2)
    steps: tuple[int, ...] = Field((0, 1, 3, 5, 10), strict=False)
    every: int = Field(0, ge=0)
    track: Annotated[int, Key(arm="any")] = Field(0, ge=0)
    track_tasks: int = Field(20, ge=2)
    head: str = ""
    explain: Annotated[int, Key(resume=True, decides="nothing", arm="any", evaluation=False)] = Field(
        2, ge=0, le=4
    )
    stream: StreamOptions = StreamOptions()

    @field_validator("steps")
    @classmethod
    def _increasing(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if not steps or steps[0] < 0 or sorted(set(steps)) != list(steps):
            raise ValueError("must be increasing step counts from 0 on")
        return steps

    @model_validator(mode="after")
    def _head_takes_no_steps(self) -> Self:
        if self.head and len(self.steps) > 1:
            raise ValueError("head takes no adaptation steps: set evaluation.steps = [0]")
        return self

    @model_validator(mode="after")
    def _head_takes_no_stream(self) -> Self:
        if self.head and self.stream.segments:
            raise ValueError("head is fitted to whole support sets, not to streams: unset one of them")
        return self


def _named(value: Any) -> Any:
    if isinstance(value, type):
        return name_of(value)
    if isinstance(value, dict):
        return {key: _named(one) for key, one in value.items()}
    return [_named(one) for one in value] if isinstance(value, list) else value


class Config(Options):
    """Config of an experiment; a run is a function of these values alone.

    Attributes:
        description: What the experiment shows.
        task: Task family: a name or a dotted path.
        algorithm: Meta-learning algorithm: a name or a dotted path.
        training: ``federated``, clients learn through a server; ``centralized``, one learner has the
            tasks of all clients; ``local``, each client learns alone.
        model: Network: a name, or the dotted path of a torch.nn.Module.
        rounds: Rounds; 0: the initial state is tested without training.
        clients: Number of clients, including held-out ones.
        validation_clients: Clients held out for choosing checkpoints and settings.
        test_clients: Clients held out for the final test.
        cohort: Training clients per round.
        oversample: Extra training clients asked per round; the first ``cohort`` valid replies count.
        quorum: Admitted replies that a round needs; 0: half the cohort.
        timeout: Seconds to wait for a round's replies.
        tasks_per_client: Tasks per client and local step.
        local_steps: Meta-steps that a client takes before it replies.
        local_lr: Step size of these local meta-steps.
        transductive: Whether batch norm takes its statistics from the query set.
        dtype: Data type of state and updates.
        engine: Where clients run: ``vector``, in this process; ``ray``, Flower's simulation engine;
            ``deployment``, SuperNodes of a SuperLink.
        workers: Worker processes; always one on a GPU.
        device: Where tasks are computed: ``cpu``; ``cuda``, a GPU; ``auto``, a GPU if there is one and
            clients are computed in this process, decided when the run is made.
        kernels: What computes gradients on the CPU: ``native``, compiled kernels of the built-in models;
            ``eager``, PyTorch's autograd; ``auto``, native kernels where there are any, decided when
            the run is made. Results are equal up to rounding.
        compile: Compile the task updates (needs a C++ compiler).
        tracking: Where to log metrics besides the run's folder; needs the extra of that name.
        seed: Random seed.
        checkpoint_every: Rounds between checkpoints.
        data: Options of the task family.
        network: Options of the model.
        learner: Options of the algorithm.
        server: The server's optimizer.
        gate: Limits of the admission gate.
        aggregation: How admitted updates are combined.
        mods: Flower mods around every client's training, by dotted path, outermost first.
        postprocessors: Postprocessors of updates, in order: tables of kind, stage and options.
        behaviours: Misbehaving clients: tables of kind, clients and options.
        faults: The fault plan.
        evaluation: How held-out clients are evaluated.
        incentives: How contributions are scored and paid.
        chain: The optional ledger.
        compare: Options of `fedmeta compare` only.
    """

    description: Annotated[str, Key(decides="nothing", code=False)] = ""
    task: Annotated[str, Key(arm="none")]
    algorithm: str
    model: Annotated[str, Key(arm="network")]
    training: str = "federated"
    rounds: Annotated[int, Key(resume=True)] = Field(ge=0)
    clients: int
    validation_clients: Annotated[int, Key(arm="none")] = Field(0, ge=0)
    test_clients: Annotated[int, Key(arm="none")] = Field(0, ge=0)
    cohort: int = Field(ge=1)
    oversample: int = Field(0, ge=0)
    quorum: int = Field(0, ge=0)
    timeout: Annotated[float, Key(resume=True)] = Field(600.0, gt=0)
    tasks_per_client: int = Field(1, ge=1)
    local_steps: int = Field(1, ge=1)
    local_lr: float = Field(0.01, gt=0)
    transductive: Annotated[bool, Key(arm="none", evaluation=True)] = True
    dtype: Annotated[Literal["float32", "float64"], Key(arm="none")] = "float32"
    engine: Annotated[Literal["vector", "ray", "deployment"], Key(resume=True, decides="place")] = (
        "vector"
    )
    workers: Annotated[int | Literal["auto"], Key(resume=True, decides="nothing")] = "auto"
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Key(resume=True, decides="place", arm="none", evaluation=True)
    ] = "cpu"
    kernels: Annotated[
        Literal["auto", "native", "eager"], Key(resume=True, arm="network", before="eager")
    ] = "auto"
    compile: bool = False
    tracking: Annotated[
        Literal["none", "tensorboard", "mlflow"], Key(resume=True, decides="nothing")
    ] = "none"
    seed: Annotated[int, Key(arm="refused")] = Field(0, ge=0, lt=2**63)
    checkpoint_every: Annotated[int, Key(resume=True, decides="nothing")] = Field(1, ge=1)
    data: Annotated[dict[str, Any], Key(arm="none")] = Field(default_factory=dict)
    network: Annotated[dict[str, Any], Key(arm="network")] = Field(default_factory=dict)
    learner: Annotated[dict[str, Any], Key(evaluation=True)] = Field(default_factory=dict)
    server: ServerOptions = ServerOptions()
    gate: GateOptions = GateOptions()
    aggregation: AggregationOptions = AggregationOptions()
    mods: Annotated[tuple[str, ...], Key(training="federated")] = Field((), strict=False)
    postprocessors: list[dict[str, Any]] = Field(default_factory=list)
    behaviours: Annotated[list[dict[str, Any]], Key(training="federated")] = Field(default_factory=list)
    faults: Annotated[FaultOptions, Key(resume=True, training="federated", code=False)] = FaultOptions()
    evaluation: Annotated[EvaluationOptions, Key(arm="none", code=False, evaluation=True)] = (
        EvaluationOptions()
    )
    incentives: IncentiveOptions = IncentiveOptions()
    chain: Annotated[ChainOptions, Key(decides="place", code=False)] = ChainOptions()
    ray: Annotated[RayOptions, Key(resume=True, decides="place", code=False)] = RayOptions()
    deployment: Annotated[DeploymentOptions, Key(resume=True, decides="place", code=False)] = (
        DeploymentOptions()
    )
    compare: Annotated[CompareOptions, Key(decides="nothing", arm="refused")] = CompareOptions()

    @classmethod
    @override
    def keys_like(cls, word: str, values: Mapping[str, Any]) -> list[str]:
        found = [_ALSO_CALLED[word]] if word in _ALSO_CALLED else []
        for key, (table, registry) in OPTION_TABLES.items():
            part = values.get(key)
            options = registry.options(part) if isinstance(part, str) and part in registry else None
            if options and word in options.model_fields:
                found.append(f"{table}.{word}")
        return found

    @field_validator("clients")
    @classmethod
    def _some_clients(cls, clients: int) -> int:
        if clients < 1:
            raise ValueError("a federation needs at least one client")
        return clients

    @field_validator("training")
    @classmethod
    def _known_way(cls, training: str) -> str:
        if training not in WAYS:
            raise ValueError(f"unknown way to train '{training}': {nearest(training, WAYS)}")
        return training

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
                f"clients = {self.clients} leaves no training clients: {self.validation_clients} are "
                f"held out for validation and {self.test_clients} for test"
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
            self.aggregation.check(self.quorum or (self.cohort + 1) // 2, self.cohort)
        if self.evaluation.every and not self.validation_clients:
            raise ValueError("evaluation.every needs validation_clients of at least 1")
        if self.evaluation.track and not self.test_clients:
            raise ValueError("evaluation.track needs test_clients of at least 1")
        if self.evaluation.stream.segments and not self.test_clients:
            raise ValueError("evaluation.stream needs test_clients of at least 1")
        return self

    @model_validator(mode="after")
    def _faults_can_be_played(self) -> "Config":
        if self.engine != "vector" and "move" in self.faults.kinds:
            raise ValueError(
                f"faults: 'move' needs engine = 'vector': on '{self.engine}' a node's id is Flower's"
            )
        return self

    @model_validator(mode="after")
    def _one_process_has_the_device(self) -> "Config":
        if self.device != "cuda":
            return self
        if self.engine == "ray":
            raise ValueError(
                "device = 'cuda' needs engine = 'vector' or 'deployment': Ray has several workers, and "
                "one process has the GPU to itself"
            )
        if isinstance(self.workers, int) and self.workers > 1:
            raise ValueError(
                f"workers = {self.workers}: with device = 'cuda' one process has the GPU to itself: set "
                "workers to 1 or 'auto'"
            )
        return self

    @model_validator(mode="after")
    def _clients_can_sign(self) -> "Config":
        if self.engine == "deployment" and self.chain.enabled and not self.deployment.roster:
            raise ValueError(
                "chain.provider: the nodes of a deployment sign with their own accounts: set "
                "deployment.roster to the file that `fedmeta federation admit` wrote"
            )
        if self.engine == "deployment" and self.chain.enabled and self.chain.staking.enabled:
            raise ValueError(
                "chain.staking.enabled: the sponsor pays the stakes, and the owners of nodes could "
                "withdraw them: it cannot be used with engine = 'deployment'"
            )
        return self

    @model_validator(mode="after")
    def _federation_is_there(self) -> "Config":
        if self.training == "federated" and self.rounds:
            return self
        why = f"training = '{self.training}' has no server and no replies"
        if not self.rounds:
            why = "with rounds = 0 no client trains or replies"
        for key in in_use(self, "federated"):
            raise ValueError(f"{why}: unset {key}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _classes_are_named(cls, values: Any) -> Any:
        """From Python a part may be given as its class; the config holds its dotted path."""
        return _named(values)

    @model_validator(mode="after")
    def _rule_can_measure(self) -> "Config":
        # A user's own rule is not imported to read a config: `problem_of_rule` is asked before a run.
        if self.incentives.rule in INCENTIVE_RULES and (problem := self.problem_of_rule()):
            raise ValueError(problem)
        return self

    def problem_of_rule(self) -> str | None:
        """Return why the incentive rule cannot measure what it wants to; None if it can.

        Raises:
            ConfigError: If a user's own rule cannot be imported, or is not one.
        """
        rule = f"incentives.rule = '{self.incentives.rule}'"
        if self.incentives.needs_held_out and not self.validation_clients:
            return (
                f"{rule} needs validation_clients of at least 1, whose tasks the server measures "
                "updates on"
            )
        if self.incentives.needs_held_out and self.aggregation.rule != "mean":
            return f"{rule} measures means of updates: it needs aggregation.rule = 'mean'"
        return None

    @model_validator(mode="after")
    def _pots_are_covered(self) -> "Config":
        chain = self.chain
        if chain.enabled and chain.budget and chain.budget < chain.pot * self.rounds:
            raise ValueError(
                f"chain.budget = {chain.budget} is smaller than {self.rounds} pots of "
                f"chain.pot = {chain.pot} tokens"
            )
        if chain.enabled and chain.pot * self.rounds > MOST_TOKENS:
            raise ValueError(
                f"chain.pot = {chain.pot} tokens in {self.rounds} rounds are more than the "
                f"{MOST_TOKENS} that a campaign can hold"
            )
        return self


def describe_keys() -> list[tuple[str, str, str]]:
    """Return (key, default, meaning) of every key of the config, nested ones by dotted path."""
    return [
        (one.path, "(required)" if one.field.is_required() else str(one.default), one.meaning)
        for one in declared(Config)
        if one.options is None
    ]
