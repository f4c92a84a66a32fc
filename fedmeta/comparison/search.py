"""Searches the settings of arms on validation clients, before the comparison proper."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedmeta.comparison.arms import Arm, Settings, flatten
from fedmeta.comparison.plans import plan_arms
from fedmeta.comparison.results import validation_value
from fedmeta.comparison.status import Job, Question
from fedmeta.config import Config
from fedmeta.config.identity import is_within, value_at
from fedmeta.errors import ConfigError
from fedmeta.experiment.swap import TABLES
from fedmeta.options import declared, nearest

PREFIX = "search-"
"""First part of the names of a search's runs."""


@dataclass(frozen=True)
class Candidate:
    """An arm with one combination of the searched settings.

    Attributes:
        arm: The arm's name.
        settings: Its values of the searched keys.
        config: The resolved config of its run, which evaluates the validation clients at its end.
    """

    arm: str
    settings: Settings
    config: Config


@dataclass(frozen=True)
class Trial:
    """A candidate with its run."""

    candidate: Candidate
    job: Job

    def value(self, question: Question) -> float | None:
        """Return the measure of the validation clients after the run; None if it failed or diverged."""
        if self.job.status != "finished":
            return None
        scale = question.scale
        value = validation_value(self.job.slot.path, question.measure, scale.worst, question.step)
        return value if math.isfinite(value) else None


def plan_search(config: Config, arms: Sequence[Arm], check: bool = True) -> list[Candidate]:
    """Return the candidates of every arm that has something to search.

    An arm takes the keys of ``compare.search`` that its config has and that it does not set itself.
    Arms without training are not searched.

    Args:
        config: The experiment's config, unresolved.
        arms: The arms.
        check: Whether to check the user's own parts on a tiny batch.

    Raises:
        ConfigError: If a key is unknown or cannot vary, a value is invalid, or there are no validation
            clients.
    """
    grid = flatten(config.compare.search)
    if not grid:
        return []
    _require_valid(config, grid)
    found = []
    for arm in arms:
        [plan] = plan_arms(config, [arm], [config.seed], check=False)
        if not plan.configs[0].rounds:
            continue
        keys = [
            key for key in grid if _takes(plan.configs[0], key) and not is_within(key, [*arm.settings])
        ]
        choices = [dict(zip(keys, values, strict=True)) for values in _product(grid, keys)]
        found += [_candidate(config, arm, choice, check) for choice in choices if keys]
    if unused := [key for key in grid if not any(key in one.settings for one in found)]:
        raise ConfigError(f"compare.search: no arm has '{unused[0]}' to search, or each sets it itself")
    return found


def by_arm(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    """Return the trials of each arm that has any."""
    found: dict[str, list[Trial]] = {}
    for one in trials:
        found.setdefault(one.candidate.arm, []).append(one)
    return found


def best(trials: Sequence[Trial], question: Question) -> Trial | None:
    """Return the trial with the best value, the first of those that tie; None if all runs failed."""
    scored = [(value, one) for one in trials if (value := one.value(question)) is not None]
    sign = 1 if question.scale.higher_is_better else -1
    return max(scored, key=lambda one: sign * one[0])[1] if scored else None


def with_settings(arm: Arm, trial: Trial | None) -> Arm:
    """Return the arm with a trial's settings; unchanged without one."""
    return replace(arm, settings={**arm.settings, **trial.candidate.settings}) if trial else arm


def as_json(trials: Sequence[Trial], question: Question) -> list[dict[str, Any]]:
    """Return an arm's trials as plain values for ``compare.json``."""
    chosen = best(trials, question)
    return [
        {
            "settings": dict(one.candidate.settings),
            "value": one.value(question),
            "chosen": one is chosen,
            "error": one.job.error,
        }
        for one in trials
    ]


def _require_valid(config: Config, grid: Mapping[str, Any]) -> None:
    if not config.validation_clients:
        raise ConfigError("compare.search needs validation_clients of at least 1, to choose settings on")
    known = {one.path: one.key for one in declared(Config)}
    for key, values in grid.items():
        if key not in known and key.rpartition(".")[0] not in TABLES.values():
            raise ConfigError(f"compare.search: unknown key '{key}': {nearest(key, known)}")
        if not isinstance(values, list) or not values:
            raise ConfigError(f"compare.search.{key}: must be a list of values to try")


def _product(grid: Mapping[str, Any], keys: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    return itertools.product(*(grid[key] for key in keys))


def _takes(config: Config, key: str) -> bool:
    """Return whether a resolved config has a key; the tables of its parts hold all their options."""
    table, _, name = key.rpartition(".")
    options = value_at(config, table) if table in TABLES.values() else None
    return options is None or name in options


def _candidate(config: Config, arm: Arm, choice: Settings, check: bool) -> Candidate:
    trial = replace(arm, settings={**arm.settings, **choice})
    [plan] = plan_arms(config, [trial], [config.seed], check)
    resolved = plan.configs[0]
    rounds = max(1, round(resolved.rounds * config.compare.search_share))
    evaluation = resolved.evaluation.model_copy(update={"every": rounds, "track": 0})
    once = resolved.model_copy(update={"rounds": rounds, "evaluation": evaluation})
    return Candidate(arm.name, choice, once)
