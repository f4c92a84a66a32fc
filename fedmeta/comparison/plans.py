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
from fedmeta.tasks import family_kind, last_family_kept

_CALLED_AS_OURS = dict.fromkeys(("partition", "alpha", "labels", "rotations"), "any") | dict.fromkeys(
    ("shots", "queries"), "training"
)
"""Default for options of ``data`` that a family does not mark: which arms may differ in them."""


@dataclass(frozen=True)
class ArmPlan:
    """An arm with the configs of its runs.

    Attributes:
        arm: The arm.
        configs: A resolved config for each seed.
        left_out: Options of the experiment that its parts do not have.
    """

    arm: Arm
    configs: tuple[Config, ...]
    left_out: tuple[LeftOut, ...] = ()


@last_family_kept()
def plan_arms(
    config: Config, arms: Sequence[Arm], seeds: Sequence[int], check: bool = True
) -> list[ArmPlan]:
    """Resolve and check every arm.

    Args:
        config: The experiment's config, unresolved, as defaults differ between arms.
        arms: The arms.
        seeds: The seeds of each arm's runs.
        check: Whether to check the user's own parts on a tiny batch.

    Raises:
        ConfigError: If an arm is invalid, or not comparable with the others.
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
    """Return the inner steps per task in training; 1 for algorithms without an inner loop."""
    return int(config.learner.get("inner_steps", 1))


def _resolved(config: Config, base: Config, arm: Arm, seed: int) -> tuple[Config, tuple[LeftOut, ...]]:
    _refuse(arm.settings)
    values = config.model_dump() | {"compare": {}, "seed": seed}
    if arm.settings.get("algorithm", config.algorithm) != config.algorithm:
        # Shared options that are unset have the experiment's value in the arm, not the arm's default.
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
            raise ConfigError("seed: all arms have the same seeds; set the first with -s seed=N")
        raise ConfigError(f"{key}: an arm cannot change how arms are compared")


def _rounds(base: Config, arm: Config) -> int:
    tasks, each = budget(base), tasks_a_round(arm)
    if tasks % each == 0:
        return tasks // each
    unit = each // math.gcd(tasks_a_round(base), each)
    below = base.rounds // unit * unit
    near = " or ".join(str(rounds) for rounds in (below, below + unit) if rounds)
    raise ConfigError(
        f"{tasks} training tasks are not a multiple of the {each} tasks of a round: set the "
        f"experiment's rounds to {near} (now {base.rounds}), or the arm's own"
    )


def _differences(base: Config, arm: Config, own_network: bool) -> Iterator[str]:
    """Yield the keys that make results incomparable: config keys, then keys of ``data``."""
    yield from differing(base, arm, own_network)
    table = key_at(Config, "data")
    may = {}
    for one in declared(family_kind(base.task).Options, table=table):
        said = any(isinstance(mark, Key) for mark in one.field.metadata)
        # A user's own family need not mark options with the same names as ours.
        may[one.path] = one.key.arm if said else _CALLED_AS_OURS.get(one.path, one.key.arm)
    for key in sorted({*base.data, *arm.data}):
        free = may.get(key) == "any" or (may.get(key) == "training" and f"test_{key}" in base.data)
        if not free and base.data.get(key) != arm.data.get(key):
            yield f"data.{key}"
