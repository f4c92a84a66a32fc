"""Builds and validates a run's parts from its config."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from flwr.clientapp.typing import Mod

from fedmeta.config import Config
from fedmeta.config.parts import assignments, faults, population
from fedmeta.errors import ConfigError, DataError
from fedmeta.experiment.rows import measures_entry
from fedmeta.experiment.streaming import require_streams
from fedmeta.experiment.tracker import require_extra
from fedmeta.federation import Federation, Learner, Plan, Rewards, Snapshot, Workload
from fedmeta.federation.behaviours import mods_for
from fedmeta.federation.flower_strategy import build_strategy
from fedmeta.federation.mods import user_mods
from fedmeta.federation.optimizer import require_fits
from fedmeta.federation.part_tables import STAGES, load_mods, read_postprocessors
from fedmeta.incentives.rule_trial import try_rule
from fedmeta.incentives.rules import INCENTIVE_RULES, NOTHING
from fedmeta.learning import (
    ALGORITHMS,
    MODELS,
    AlgorithmSetup,
    Tensors,
    build_algorithm,
    expand_state,
    has_kernel,
    resolve_setup,
)
from fedmeta.learning.algorithm_trial import try_on_device, try_updates
from fedmeta.learning.device import choose_device, one_thread
from fedmeta.learning.model_trial import try_model
from fedmeta.learning.native.kernel import choose_kernels
from fedmeta.options import parse_options
from fedmeta.tasks import (
    FAMILIES,
    Examples,
    Objective,
    TaskBatch,
    family_kind,
    stream,
    torch_generator,
)
from fedmeta.tasks.family_check import check_family
from fedmeta.training import WAYS, TrainingSetup, Way


def resolve(config: Config) -> Config:
    """Fill in the defaults of the chosen task family, model and algorithm.

    Raises:
        ConfigError: If one of them, or a Flower strategy or mod, does not exist or has no such option.
    """
    setup = resolve_setup(_setup(config))
    faults(config)
    load_mods(config.mods)
    if config.aggregation.is_strategy:
        build_strategy(config.aggregation)
    rule = config.incentives.rule
    if config.chain.enabled and rule == "none":
        # A ledger without awards would record rounds but pay nothing, so pay by tasks.
        rule = "tasks"
    data = parse_options(family_kind(config.task).Options, config.data, "data")
    return with_processor(config).model_copy(
        update={
            "data": _set(data.model_dump(mode="json")),
            "network": _set(setup.network),
            "learner": _set(setup.learner),
            "behaviours": [assignment.table for assignment in assignments(config)],
            "postprocessors": [_set(one.table) for one in read_postprocessors(config.postprocessors)],
            "quorum": config.quorum or (config.cohort + 1) // 2,
            "incentives": config.incentives.model_copy(update={"rule": rule}),
        }
    )


def with_processor(config: Config) -> Config:
    """Return a config whose device and kernels, where they are ``auto``, are resolved for this machine.

    Raises:
        ConfigError: If native kernels are asked for and not available.
    """
    here = config.engine == "vector" and config.workers in ("auto", 1)
    device = choose_device(config.device, here)
    kernels = "eager"
    if device == "cpu":
        # Nodes of a deployment may be other machines, which have no kernels.
        unset = config.kernels == "auto" and config.engine == "deployment"
        able = not config.compile and has_kernel(config.model)
        kernels = (
            "eager" if unset else choose_kernels(config.kernels, able, getattr(torch, config.dtype))
        )
    return config.model_copy(update={"device": device, "kernels": kernels})


def _set(options: Mapping[str, Any]) -> dict[str, Any]:
    # TOML has no null, so absent values are left out.
    return {key: value for key, value in options.items() if value is not None}


def workload(config: Config) -> Workload:
    """Return the workload of the run's clients."""
    return Workload(
        task=config.task,
        data=config.data,
        population=population(config),
        setup=_setup(config),
        seed=config.seed,
        tasks_per_client=config.tasks_per_client,
        local_steps=config.local_steps,
        local_lr=config.local_lr,
        dtype=config.dtype,
        evaluation_tasks=config.evaluation.tasks,
        evaluation_steps=config.evaluation.steps,
        track_tasks=config.evaluation.track_tasks,
        postprocessors=config.postprocessors,
        device=config.device,
    )


def plan(config: Config) -> Plan:
    """Return the server's settings for each round."""
    return Plan(
        rounds=config.rounds,
        cohort=config.cohort,
        oversample=config.oversample,
        quorum=config.quorum,
        timeout=config.timeout,
        server=config.server,
        gate=config.gate,
        aggregation=config.aggregation,
        evaluate_every=config.evaluation.every,
        track=config.evaluation.track,
        checkpoint_every=config.checkpoint_every,
    )


def mods(config: Config) -> dict[int, list[Mod]]:
    """Return each client's mods: the user's mods, then those of behaviours."""
    playing = mods_for(config.behaviours, workload(config))
    if not config.mods:
        return playing
    outer = user_mods(config.mods, config.local_lr)
    training = population(config).clients("train")
    return {client: [*outer, *playing.get(client, ())] for client in training}


def check(config: Config, trial: bool = True) -> Learner:
    """Build the data, the model and the algorithm, to find mistakes before a run exists.

    Args:
        config: The resolved config.
        trial: Whether to check the user's own parts on a tiny batch.

    Raises:
        ConfigError: If the parts do not fit each other, or one of the user's is faulty.
        DataError: If the data cannot be read.
        UsageError: If an extra is missing.
    """
    require_extra(config.tracking)
    if problem := config.problem_of_rule():
        raise ConfigError(problem)
    on_machines = config.engine == "deployment" and config.training == "federated"
    here = workload(config)
    with one_thread():
        # The run uses this learner: its initial state must not depend on the number of threads.
        if on_machines:
            # The nodes' device does not matter on the server.
            learner = Learner.build_for_server(replace(here, device="cpu"))
        else:
            learner = Learner.build(here)
        template = learner.template
    if config.rounds and not template:
        raise ConfigError(
            f"algorithm '{config.algorithm}' has nothing to learn with this network: "
            "set rounds = 0 to test it untrained"
        )
    require_fits(config.server, template)
    measures_entry(learner.algorithm.objective)
    for stage in STAGES:
        learner.postprocessing(stage).try_out(template)
    require_streams(config, learner)
    if trial:
        try_parts(config, learner)
    if on_machines and not learner.has_data and config.incentives.needs_held_out:
        raise DataError(
            f"incentives.rule = '{config.incentives.rule}' scores on the validation clients' tasks, "
            "whose data are not on this machine"
        )
    return learner


def build_way(config: Config, federation: Federation, start: Snapshot | None, rewards: Rewards) -> Way:
    """Build the way to train that `config.training` names.

    Args:
        config: The run's config.
        federation: Access to its clients.
        start: Snapshot to continue from; None: the initial state.
        rewards: How clients are identified and paid, if they are.
    """
    left = start is None or start.round < config.rounds
    setup = TrainingSetup(federation, plan(config), start if left else None, rewards)
    return WAYS.get(config.training)(setup)


def model_per_client(config: Config) -> bool:
    """Return whether each training client of a run has its own model."""
    return WAYS.get(config.training).model_per_client


def initial_state(config: Config, state: Tensors) -> Tensors:
    """Return a run's initial state, given the initial state of one model."""
    return expand_state(state, population(config).train) if model_per_client(config) else state


def _setup(config: Config) -> AlgorithmSetup:
    return AlgorithmSetup(
        algorithm=config.algorithm,
        learner=config.learner,
        model=config.model,
        network=config.network,
        transductive=config.transductive,
        kernels=config.kernels,
        compile=config.compile,
        head=config.evaluation.head,
    )


ROWS = 4
"""Examples of each class, or of a regression, in made-up tasks."""


def try_parts(config: Config, learner: Learner) -> None:
    """Check a user's own parts; fedmeta's parts have tests instead.

    Args:
        config: The resolved config.
        learner: The learner built from it.

    Raises:
        ConfigError: If a part would fail or misbehave in the run; the message names it.
    """
    own_family = config.task not in FAMILIES
    own_model, own_algorithm = config.model not in MODELS, config.algorithm not in ALGORITHMS
    if own_family and learner.has_data:
        check_family(learner.family, config.seed)
    if config.incentives.rule not in (NOTHING, *INCENTIVE_RULES):
        size = sum(value.numel() for value in learner.template.values())
        try_rule(config.incentives, config.cohort, size)
    if config.evaluation.head:
        _try_head(config, learner)
    if not (own_family or own_model or own_algorithm):
        return
    # Compiling takes half a minute and does not change results.
    setup = replace(learner.workload.setup, compile=False)
    spec = learner.family.spec
    algorithm = build_algorithm(setup, spec, config.seed)
    model, name = f"model '{config.model}'", f"algorithm '{config.algorithm}'"
    with one_thread():
        tasks = _tasks(learner, config)
        if tasks is None:
            return
        if own_model:
            x = algorithm.objective.inputs(tasks.support)
            try_model(algorithm.model, x, learner.dtype, algorithm.second_order, model)
        try_updates(algorithm, tasks, learner.dtype, f"{name} with {model}")
        if learner.device.type != "cpu":
            try_on_device(algorithm, tasks, learner.dtype, learner.device, f"{name} with {model}")


def _try_head(config: Config, learner: Learner) -> None:
    """Fit the head of ``evaluation.head`` to two tasks."""
    tasks = _tasks(learner, config)
    if tasks is None:
        return
    state = expand_state(learner.template, len(tasks))
    try:
        adapted = learner.algorithm.adapt(state, tasks.support, 0)
        learner.algorithm.predict(state, adapted, tasks.query)
    except DataError as error:
        raise ConfigError(f"evaluation.{error}") from None


def _tasks(learner: Learner, config: Config) -> TaskBatch | None:
    """Draw two tasks of a training client; without data, return made-up ones or None."""
    if not learner.has_data:
        made_up = _made_up(learner.algorithm.objective)
        return made_up and made_up.to(learner.dtype)
    reason = ""
    for client in learner.family.population.clients("train"):
        try:
            drawn = learner.family.sample(client, 2, stream(config.seed, "check", client))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        return drawn.to(learner.dtype)
    raise ConfigError(f"task '{config.task}': no training client can draw tasks ({reason})")


def _made_up(objective: Objective) -> TaskBatch | None:
    spec, generator = objective.spec, torch_generator(0, "trial", "tasks")
    rows = ROWS * spec.outputs if objective.labels and not spec.vocabulary else ROWS
    halves: list[Examples] = []
    for _ in range(2):
        x = spec.made_up(2, rows, generator)
        targets = objective.made_up_targets(x, generator)
        if targets is None:
            return None
        halves.append({"x": x, **targets})
    return TaskBatch(*halves)
