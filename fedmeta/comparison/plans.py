"""Builds and checks the config of every run of a comparison."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedmeta.comparison.arms import Arm
from fedmeta.config import Config, merge
from fedmeta.config.identity import differing, is_within, key_at, value_at
from fedmeta.errors import ConfigError, UsageError
from fedmeta.experiment import planning
from fedmeta.experiment.swap import TABLES, LeftOut, leave_out, swapped
from fedmeta.options import Key, declared, parse_options
from fedmeta.tasks import family_kind

_CALLED_AS_OURS = dict.fromkeys(("partition", "alpha", "labels", "rotations"), "any") | dict.fromkeys(
    ("shots", "queries"), "training"
)
"""Arms that may differ in an option of ``data`` of which its family says nothing."""


@dataclass(frozen=True)
class ArmPlan:
    """An arm with what it will run.

    Attributes:
        arm: The arm.
        configs: A resolved config for each seed.
        left_out: Options of the experiment that its parts do not have.
    """

    arm: Arm
    configs: tuple[Config, ...]
    left_out: tuple[LeftOut, ...] = ()


def plan_arms(
    config: Config, arms: Sequence[Arm], seeds: Sequence[int], check: bool = True
) -> list[ArmPlan]:
    """Resolve and check every arm.

    Args:
        config: The experiment's config, not resolved: what its values imply differs from arm to arm.
        arms: The arms.
        seeds: A run for each.
        check: Whether parts of the user's are tried on a tiny batch as well.

    Raises:
        ConfigError: If an arm cannot be, or could not be compared with the others.
        DataError: If data cannot be read.
    """
    base = planning.resolve(config)
    plans = []
    for arm in arms:
        try:
            found = [_resolved(config, base, arm, seed) for seed in seeds]
            plan = ArmPlan(arm, tuple(resolved for resolved, _ in found), found[0][1])
            planning.check(plan.configs[0], check)
        except UsageError as error:
            text = str(error)
            named = text if text.startswith("arm '") else f"arm '{arm.name}': {text}"
            raise type(error)(named) from None
        plans.append(plan)
    return plans


def budget(config: Config) -> int:
    """Return the training tasks of a run."""
    return config.rounds * tasks_a_round(config)


def tasks_a_round(config: Config) -> int:
    """Return the training tasks of a round."""
    return config.cohort * config.tasks_per_client * config.local_steps


def inner_steps_a_task(config: Config) -> int:
    """Return how often training steps on a task; without an inner loop it takes one gradient."""
    return int(config.learner.get("inner_steps", 1))


def _resolved(config: Config, base: Config, arm: Arm, seed: int) -> tuple[Config, tuple[LeftOut, ...]]:
    _refuse(arm.settings)
    values = config.model_dump() | {"compare": {}, "seed": seed}
    if arm.settings.get("algorithm", config.algorithm) != config.algorithm:
        # Where both have an option that is not set, the arm's is as the experiment's, not its default.
        values["learner"] = dict(base.learner)
    values, left_out = swapped(values, arm.settings)
    for part, table in TABLES.items():
        loose = {key.removeprefix(f"{table}.") for key in arm.loose if is_within(key, [table])}
        left_out += leave_out(values, part, loose.__contains__) if loose else []
    wanted = parse_options(Config, values)
    rounds = wanted.rounds if "rounds" in arm.settings else _rounds(base, wanted)
    track = max(1, rounds // base.compare.points)
    values = merge(values, {"rounds": rounds, "evaluation.track": track, "workers": 1})
    resolved = planning.resolve(parse_options(Config, values))
    # What trains nothing shows how far another network gets without.
    for key in _differences(base, resolved, arm.own_network or not resolved.rounds):
        raise ConfigError(
            f"{key} differs from the experiment's: all arms must have the same model, test tasks "
            "and evaluation to be comparable"
        )
    set_here = (one for one in left_out if one.path in arm.loose or _is_set(config, one.path))
    return resolved, tuple(set_here)


def _is_set(config: Config, path: str) -> bool:
    table, _, key = path.rpartition(".")
    options = value_at(config, table)
    return isinstance(options, Mapping) and key in options


def _refuse(settings: Mapping[str, Any]) -> None:
    refused = [one.path for one in declared(Config) if one.key.arm == "refused"]
    for key in (key for key in settings if is_within(key, refused)):
        if key == "seed":
            raise ConfigError("seed: all arms have the same seeds; set the first by -s seed=N")
        raise ConfigError(f"{key}: an arm cannot change how arms are compared")


def _rounds(base: Config, arm: Config) -> int:
    tasks, each = budget(base), tasks_a_round(arm)
    if tasks % each == 0:
        return tasks // each
    unit = each // math.gcd(tasks_a_round(base), each)
    below = base.rounds // unit * unit
    near = " or ".join(str(rounds) for rounds in (below, below + unit) if rounds)
    raise ConfigError(
        f"{tasks} training tasks are not a whole number of rounds of {each}: set the experiment's "
        f"rounds to {near} (now {base.rounds}), or the arm's own"
    )


def _differences(base: Config, arm: Config, own_network: bool) -> Iterator[str]:
    """Yield the keys that make results incomparable: those of the config, then those of ``data``."""
    yield from differing(base, arm, own_network)
    table = key_at(Config, "data")
    may = {}
    for one in declared(family_kind(base.task).Options, table=table):
        said = any(isinstance(mark, Key) for mark in one.field.metadata)
        # A family of one's own need not mark options that are called as ours are.
        may[one.path] = one.key.arm if said else _CALLED_AS_OURS.get(one.path, one.key.arm)
    for key in sorted({*base.data, *arm.data}):
        free = may.get(key) == "any" or (may.get(key) == "training" and f"test_{key}" in base.data)
        if not free and base.data.get(key) != arm.data.get(key):
            yield f"data.{key}"
