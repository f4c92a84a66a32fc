"""What a config key may do: change on resume, count for a run's id and its reuse, vary in an arm."""

import hashlib
from typing import Any

import pytest

from fedmeta.comparison.arms import Arm
from fedmeta.comparison.plans import plan_arms
from fedmeta.comparison.run_reuse import essence
from fedmeta.config import Config, merge
from fedmeta.errors import ConfigError
from fedmeta.experiment.api import _changed as changed_on_resume
from fedmeta.experiment.parts import resolve
from fedmeta.options import parse_options
from tests.comparison.helpers import TINY

TABLES = {"evaluation": {"track": 0}, "chain": {"provider": "embedded"}}


def config(**settings: Any) -> Config:
    return resolve(parse_options(Config, merge(TINY, settings)))


MAY_CHANGE: dict[str, Any] = {
    "rounds": 99,
    "engine": "ray",
    "workers": 3,
    "checkpoint_every": 7,
    "timeout": 5.0,
    "tracking": "mlflow",
    "faults": {"rates": {"late": 0.1}},
    "ray.address": "auto",
    "deployment.address": "127.0.0.1:1",
    "deployment.certificate": "x.pem",
    "deployment.insecure": True,
    "deployment.roster": "nodes.json",
    "chain.provider": "anvil",
    "chain.chain_id": 1337,
    "chain.port": 8545,
    "chain.addresses": "",
    "chain.budget": 100_000,
    "chain.batch": 2,
    "chain.claim": "never",
    "chain.keystore": "",
}


@pytest.mark.parametrize("key", MAY_CHANGE)
def test_what_finished_rounds_do_not_depend_on_may_change_on_resume(key: str) -> None:
    changed_on_resume(config(), {key: MAY_CHANGE[key]})


@pytest.mark.parametrize(
    "key",
    [
        *("description", "task", "model", "training", "cohort", "quorum", "seed", "dtype", "compile"),
        *("data", "data.shots", "server", "server.schedule", "gate.max_norm", "aggregation.trim", "mods"),
        *("evaluation.steps", "incentives.rule", "chain", "chain.pot", "chain.required"),
        *("chain.committee", "chain.staking.enabled", "compare.points", "behaviours"),
    ],
)
def test_everything_else_is_refused_by_its_name(key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        changed_on_resume(config(), {key: 1})
    assert str(refused.value).startswith(
        f"'{key}' cannot be changed on resume: would change what the finished rounds mean (may: "
    )


@pytest.mark.parametrize(
    ("typo", "key"),
    [("tracing", "tracking"), ("wokers", "workers"), ("rond", "rounds"), ("time_out", "timeout")],
)
def test_a_typo_on_resume_is_met_with_the_nearest_key_that_may(typo: str, key: str) -> None:
    with pytest.raises(ConfigError, match=f"'{typo}' cannot be changed on resume: did you mean '{key}'"):
        changed_on_resume(config(), {typo: 1})


@pytest.mark.parametrize(
    "settings",
    [
        {"description": "other"},
        {"workers": 2},
        {"timeout": 1.0},
        {"checkpoint_every": 3},
        {"tracking": "mlflow"},
        {"compare.points": 3},
        {"compare.arms": {"x": {"rounds": 1}}},
    ],
)
def test_a_run_is_used_again_whatever_the_keys_that_change_nothing(settings: dict[str, Any]) -> None:
    assert essence(config(**settings)) == essence(config())


@pytest.mark.parametrize(
    "settings",
    [
        {"rounds": 11},
        {"seed": 1},
        {"engine": "ray"},
        {"ray.address": "auto"},
        {"deployment.insecure": True},
        {"chain.provider": "embedded"},
        {"evaluation.track": 1},
        {"server.lr": 0.5},
        {"data.shots": 9},
        {"network.hidden": [3]},
        {"learner.inner_steps": 2},
        {"gate.max_tasks": 3},
        {"faults.seconds": 1.0},
        {"behaviours": [{"kind": "noise", "clients": [0]}]},
    ],
)
def test_any_other_key_makes_another_run(settings: dict[str, Any]) -> None:
    assert essence(config(**settings)) != essence(config())


@pytest.mark.parametrize(
    "settings",
    [
        {"rounds": 2},
        {"cohort": 2},
        {"server.lr": 0.5},
        {"gate.max_norm": 2.0},
        {"learner.inner_lr": 0.5},
        {"aggregation.rule": "median"},
        {"evaluation.track": 3},
        {"engine": "ray"},
        {"faults.rates": {"nan": 0.1}},
        {"training": "local"},
    ],
)
def test_arms_may_differ_in_how_they_learn(settings: dict[str, Any]) -> None:
    (plan,) = plan_arms(Config(**TINY), [Arm("varied", "", settings)], [0], check=False)
    assert len(plan.configs) == 1


@pytest.mark.parametrize("key", ["partition", "alpha", "labels"])
def test_the_data_of_training_clients_may_differ(key: str) -> None:
    digits = TINY | {"task": "digits", "data": {"ways": 3}, "model": "mlp"}
    value = {"partition": "iid", "alpha": 0.1, "labels": "global"}[key]
    plan_arms(Config(**digits), [Arm("varied", "", {f"data.{key}": value})], [0], check=False)


# Worked out by hand from the formula of ids in the code of before: TOML of all keys, those that say
# where a run is computed and settled set to their defaults.
def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
