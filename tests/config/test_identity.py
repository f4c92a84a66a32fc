"""Which config keys may change on resume, count for a run's id and its reuse, or vary in an arm."""

import hashlib
from typing import Annotated, Any

import pytest
from pydantic import Field

from fedmeta.chain import open_client_keys
from fedmeta.chain.settle.campaign import campaign_id
from fedmeta.comparison.arms import Arm
from fedmeta.comparison.plans import plan_arms
from fedmeta.comparison.run_reuse import run_key
from fedmeta.config import Config, describe_keys, merge
from fedmeta.config.identity import later_settings, resumable
from fedmeta.config.toml import resumed as changed_on_resume
from fedmeta.errors import ConfigError
from fedmeta.experiment.ledger import run_id
from fedmeta.experiment.made_with import Made, continued, difference
from fedmeta.experiment.planning import resolve
from fedmeta.federation import FaultOptions, GateOptions
from fedmeta.federation.behaviours import BEHAVIOURS
from fedmeta.learning import ALGORITHMS, MODELS
from fedmeta.options import Key, parse_options
from fedmeta.tasks import FAMILIES
from tests.comparison.helpers import TINY


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
def test_keys_that_finished_rounds_do_not_depend_on_may_change_on_resume(key: str) -> None:
    ledger = {"chain.provider": "embedded"} if key.startswith("chain.") else {}
    changed_on_resume(config(**ledger), {key: MAY_CHANGE[key]})


@pytest.mark.parametrize(
    "key",
    [
        *("description", "task", "model", "training", "cohort", "quorum", "seed", "dtype"),
        *(
            "data",
            "data.shots",
            "server",
            "server.schedule",
            "gate.max_norm",
            "aggregation.trim",
            "mods",
        ),
        *("evaluation.steps", "incentives.rule", "chain", "chain.pot", "chain.required"),
        *("chain.committee", "chain.staking.enabled", "compare.points", "behaviours", "mods"),
    ],
)
def test_everything_else_is_refused_by_its_name(key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        changed_on_resume(config(), {key: 1})
    assert str(refused.value) == (
        f"'{key}' cannot be changed on resume: it is fixed when a run is made; "
        "`fedmeta list keys` marks the keys that may change"
    )


@pytest.mark.parametrize(
    ("typo", "key"),
    [("tracing", "tracking"), ("wokers", "workers"), ("rond", "rounds"), ("time_out", "timeout")],
)
def test_a_typo_on_resume_suggests_the_nearest_key_that_may_change(typo: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^unknown key '{typo}': did you mean '{key}'\?$"):
        changed_on_resume(config(), {typo: 1})


@pytest.mark.parametrize(
    ("before", "after", "which"),
    [
        ("none", "anvil", "has no ledger"),
        ("none", "http://127.0.0.1:8545", "has no ledger"),
        ("embedded", "none", "has a ledger"),
    ],
)
def test_a_resume_neither_adds_nor_removes_a_ledger(before: str, after: str, which: str) -> None:
    with pytest.raises(ConfigError, match=rf"^chain\.provider: this run {which}, and a resume cannot"):
        changed_on_resume(config(**{"chain.provider": before}), {"chain.provider": after})
    other = changed_on_resume(config(**{"chain.provider": "anvil"}), {"chain.provider": "ganache"})
    assert other.chain.provider == "ganache"


def test_an_unknown_key_on_resume_without_a_near_one_says_where_the_keys_are_listed() -> None:
    with pytest.raises(ConfigError, match=r"^unknown key 'zzz': `fedmeta list keys` marks the keys"):
        changed_on_resume(config(), {"zzz": 1})


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
def test_a_run_is_reused_if_only_keys_without_effect_differ(settings: dict[str, Any]) -> None:
    assert run_key(config(**settings)) == run_key(config())


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
    assert run_key(config(**settings)) != run_key(config())


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


class Gate(GateOptions):
    least_norm: float = 0.0


class Later(Config):
    """The config of a later version, which has a key more, one in a table, and one that may change."""

    patience: int = 3
    gate: Gate = Gate()  # type: ignore[assignment]
    pace: Annotated[int, Key(resume=True)] = 2


def later(one: Config, **settings: Any) -> Later:
    return parse_options(Later, merge(one.model_dump(), settings))


SETTINGS: list[dict[str, Any]] = [
    {},
    {"server.lr": 0.5, "gate.max_tasks": 3},
    {"faults.rates": {"late": 0.1}, "server.schedule": "linear", "chain.provider": "embedded"},
    {"behaviours": [{"kind": "noise", "clients": [0]}], "engine": "ray"},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_key_that_another_version_adds_changes_no_run_account_or_campaign(
    settings: dict[str, Any],
) -> None:
    ours, theirs = config(**settings), later(config(**settings))
    assert run_id(ours) == run_id(theirs)
    one, other = (open_client_keys(it.chain, None, run_id(it)).address(3) for it in (ours, theirs))
    assert one == other
    assert campaign_id(run_id(ours)) == campaign_id(run_id(theirs))
    assert run_key(ours) == run_key(theirs)
    assert later_settings(ours) == later_settings(theirs)


@pytest.mark.parametrize("key", ["patience", "gate.least_norm", "pace"])
def test_a_new_key_that_is_set_makes_another_run(key: str) -> None:
    theirs = later(config(), **{key: 9})
    assert run_id(theirs) != run_id(config())
    assert run_key(theirs) != run_key(config())


def test_a_key_that_may_change_on_resume_is_recorded_once_it_is_set() -> None:
    assert later_settings(later(config(), pace=9)) == later_settings(config()) | {"pace": 9}
    assert "pace" in resumable(Later)
    assert not {"patience", "gate", "gate.least_norm"} & set(resumable(Later))


@pytest.mark.parametrize(
    ("registry", "name", "changes"),
    [
        (FAMILIES, "sinusoid", {}),
        (ALGORITHMS, "maml", {}),
        (MODELS, "mlp", {}),
        (BEHAVIOURS, "noise", {"behaviours": [{"kind": "noise", "clients": [0]}]}),
    ],
)
def test_neither_does_an_option_that_a_part_gets(
    registry: Any, name: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = config(algorithm="maml", **changes)
    part = registry.get(name)

    class Wider(part.Options):  # type: ignore[misc]
        another: tuple[int, ...] = Field((1, 2), strict=False)

    monkeypatch.setattr(part, "Options", Wider)
    after = config(algorithm="maml", **changes)
    assert before != after
    assert (run_id(before), run_key(before)) == (run_id(after), run_key(after))


def test_the_id_is_the_digest_of_what_is_not_at_its_default() -> None:
    """Written down by hand."""
    given = Config(
        task="sinusoid", algorithm="maml", model="mlp", rounds=4, clients=6, cohort=2, timeout=9.0,
        quorum=1, workers=3, description="x", engine="ray", data={"shots": 10, "queries": 3},
        server={"lr": 0.001, "schedule": "linear"}, chain={"provider": "embedded", "pot": 7, "batch": 2},
    )  # fmt: skip
    text = (
        '{"algorithm":"maml","chain.pot":7,"clients":6,"cohort":2,"data":{"queries":3},"model":"mlp",'
        '"quorum":1,"rounds":4,"server.schedule":"linear","task":"sinusoid","timeout":9.0}'
    )
    assert run_id(given) == hashlib.sha256(f"fedmeta run 2\n{text}".encode()).digest()


@pytest.mark.parametrize(
    "settings",
    [
        {"workers": 3, "description": "x", "tracking": "tensorboard", "checkpoint_every": 2},
        {"engine": "ray", "ray.address": "auto"},
        {"deployment.address": "127.0.0.1:77"},
        {"chain.provider": "anvil", "chain.committee": 9, "chain.budget": 10**6},
        {"server.lr": 1e-3, "oversample": 0, "gate.max_tasks": None, "evaluation.steps": [0, 1, 3]},
    ],
)
def test_where_a_run_is_and_what_is_set_to_its_default_do_not_count(settings: dict[str, Any]) -> None:
    # With Ray a reply can be late, so that the timeout counts; here it is at its default.
    plain = config(timeout=600.0, **{"incentives.rule": "tasks"})
    assert run_id(config(timeout=600.0, **{"incentives.rule": "tasks"} | settings)) == run_id(plain)


@pytest.mark.parametrize(
    "settings",
    [{"seed": 1}, {"rounds": 11}, {"chain.pot": 7}, {"data.shots": 2}, {"mods": ["a.b"]}, {"cohort": 3}],
)
def test_keys_that_affect_results_or_payments_count(settings: dict[str, Any]) -> None:
    ours = parse_options(Config, merge(config().model_dump(), settings))
    assert run_id(ours) != run_id(config())


def test_a_fault_plan_that_another_version_wrote_is_the_same_plan() -> None:
    rates = {"rates": {"nan": 0.2}}
    theirs: dict[str, Any] = rates | {"seconds": 600.0, "away": 2, "entries": []}
    wanted = Made({}, "d", "f", {"engine": "vector", "faults": theirs})
    for faults, same in (
        (rates, True),
        (rates | {"seconds": 600.0}, True),
        (rates | {"away": 3}, False),
    ):
        made = [{"from": 1, "code": {}, "data": "d", "fedmeta": "f"}]
        made[0]["settings"] = {"engine": "vector", "faults": faults}
        assert (difference(made, wanted) is None) == same
        assert (len(continued(made, wanted, 5)) == 1) == same


def test_the_list_of_keys_says_which_may_change_on_resume() -> None:
    said = {key for key, _, meaning in describe_keys() if meaning.endswith("May change on resume.")}
    assert said >= MAY_CHANGE.keys() - {"faults"}
    assert said >= {f"faults.{key}" for key in FaultOptions.model_fields}
    assert not said & {"seed", "server.lr", "chain.pot", "chain.committee", "evaluation.every"}


def test_a_table_may_change_on_resume_if_all_its_keys_may() -> None:
    changed = changed_on_resume(config(), {"faults.seconds": 3.0, "ray": {"address": "auto"}})
    assert (changed.faults.seconds, changed.ray.address) == (3.0, "auto")
    with pytest.raises(ConfigError, match=r"faults\.secnds"):
        changed_on_resume(config(), {"faults.secnds": 3.0})
