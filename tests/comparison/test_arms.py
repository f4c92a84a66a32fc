"""Arms: which exist, what they set, and how the command line and configs define them."""

from pathlib import Path
from typing import Any, ClassVar

import pytest

from fedmeta.comparison.arms import choose, flatten, parse_arms, require_arms
from fedmeta.comparison.plans import plan_arms
from fedmeta.errors import ConfigError, MissingDataError
from fedmeta.experiment import Config, experiment_names, load_config
from fedmeta.experiment.planning import resolve
from fedmeta.options import Options
from fedmeta.tasks import last_family_kept
from fedmeta.tasks.families.sinusoid import Sinusoid
from tests.comparison.helpers import DIGITS, TINY

LEARNED = ["centralized", "federated-iid", "federated", "fedavg", "local", "pretrained"]
NINE = [*LEARNED, "untrained", "linear", "prototypes"]
LEFT_OUT = {
    "sinusoid": {"prototypes"},
    "navigation": {"federated-iid", "prototypes"},
    "half_cheetah": {"federated-iid", "prototypes"},
    "molecules": {"federated-iid"},
    "parkinsons": {"prototypes"},
    "movielens": {"federated-iid", "prototypes"},
    "shakespeare": {"linear", "prototypes"},
    "protonet": {"linear"},
    "matching": {"linear"},
    "mpn": {"linear", "prototypes"},
}
"""By task, algorithm or model, the arms that make no sense there."""


class WithoutPartition(Sinusoid):
    """A family whose data are dealt in one way."""

    class Options(Options):
        shots: int = 5
        queries: int = 5
        test_queries: int | None = None
        heterogeneity: float = 0.3
        partition: ClassVar[str] = "natural"


def config(**changes: Any) -> Config:
    return resolve(Config(**TINY | changes))


def settings(base: Config, name: str) -> dict[str, Any]:
    return dict(choose(base, [name])[0][0].settings)


def test_all_nine_are_listed_in_the_order_of_the_page() -> None:
    arms, notes = choose(resolve(Config(**DIGITS)), None)
    assert [arm.name for arm in arms] == NINE
    assert notes == []
    assert all(arm.what.endswith(".") for arm in arms)


def shipped() -> list[object]:
    """All experiments; of those on Omniglot, two are enough by default, as each draws its data anew.

    The comparison of methods decodes the full set for ten seconds; below, its arms have the small one.
    """
    many = ["methods", *[name for name in experiment_names() if name.startswith("omniglot-")][1:]]
    return [
        pytest.param(name, marks=pytest.mark.slow) if name in many else name
        for name in experiment_names()
    ]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decoded images, which several experiments read."""
    return tmp_path_factory.mktemp("cache")


def assert_arms_can_be_built(experiment: Config) -> None:
    compared = experiment.compare.built_in or NINE
    named = (experiment.task, experiment.algorithm, experiment.model)
    left_out = {arm for one in named for arm in LEFT_OUT.get(one, set())}.intersection(compared)
    expected = dict.fromkeys([*compared, *experiment.compare.arms])
    try:
        # As `compare` does.
        with last_family_kept():
            arms, notes = choose(resolve(experiment), None)
            plans = plan_arms(experiment, arms, [0])
    except MissingDataError as error:
        pytest.skip(str(error))
    assert [plan.arm.name for plan in plans] == [arm for arm in expected if arm not in left_out]
    assert len(notes) == len(left_out)


@pytest.mark.parametrize("name", shipped())
def test_the_arms_of_every_shipped_experiment_can_be_built(
    name: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMETA_CACHE", str(cache))
    assert_arms_can_be_built(load_config(name))


def test_all_methods_can_be_built_on_the_small_set(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMETA_CACHE", str(cache))
    assert_arms_can_be_built(load_config("methods", {"data.source": "small", "data.partition": "iid"}))


def test_settings_of_the_arms() -> None:
    base = resolve(Config(**DIGITS))
    assert settings(base, "centralized") == {"training": "centralized"}
    assert settings(base, "federated-iid") == {"data.partition": "iid"}
    assert settings(base, "federated") == {}
    assert settings(base, "local") == {"training": "local"}
    assert settings(base, "pretrained") == {
        "algorithm": "pretrained",
        "training": "centralized",
        "data.labels": "global",
    }
    assert settings(base, "fedavg") == {
        "algorithm": "fedavg",
        "local_steps": 5,
        "local_lr": 0.1,
        "server": {"optimizer": "SGD", "lr": 0.1},
        "data.labels": "global",
    }
    assert settings(base, "untrained") == {"rounds": 0, "training": "centralized"}
    linear = {"model": "mlp", "network": {"hidden": []}}
    assert settings(base, "linear") == linear
    assert settings(base, "prototypes") == linear | {
        "algorithm": "protonet",
        "rounds": 0,
        "training": "centralized",
    }


@pytest.mark.parametrize("name", ["pretrained", "fedavg"])
def test_labels_are_left_alone_where_the_family_has_no_such_option(name: str) -> None:
    assert "data.labels" not in settings(config(), name)


def test_fedavg_may_keep_the_labels_of_its_tasks() -> None:
    base = resolve(Config(**DIGITS | {"compare": {"arms": {"fedavg": {"data.labels": "task"}}}}))
    assert settings(base, "fedavg")["data.labels"] == "task"


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("prototypes", {}, "it needs classification with one label per example"),
        ("linear", DIGITS | {"algorithm": "protonet", "learner": {}}, "'protonet' has no head"),
    ],
)
def test_an_arm_that_makes_no_sense_is_left_out_or_refused_if_it_is_named(
    name: str, changes: dict[str, Any], why: str
) -> None:
    base = config(**changes)
    arms, notes = choose(base, None)
    assert name not in [arm.name for arm in arms]
    assert [why in note for note in notes] == [True]
    with pytest.raises(ConfigError, match=f"^arm '{name}': .*{why}"):
        choose(base, [name])


def test_a_config_names_the_built_in_arms_to_compare_beside_its_own() -> None:
    own = {"arms": {"fewer": {"cohort": 2}}}
    arms, notes = choose(config(compare={"built_in": ["untrained", "federated"], **own}), None)
    assert ([arm.name for arm in arms], notes) == (["untrained", "federated", "fewer"], [])
    arms, _ = choose(config(compare={"built_in": [], **own}), None)
    assert [arm.name for arm in arms] == ["fewer"]
    arms, _ = choose(config(compare={"built_in": [], **own}), ["linear"])
    assert [arm.name for arm in arms] == ["linear"]


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ([], "there is no arm to compare: "),
        (["fedavgg"], "unknown arm 'fedavgg': did you mean 'fedavg'"),
        (["local", "local"], "arm 'local' is named twice"),
    ],
)
def test_built_in_arms_that_are_unknown_or_repeated_are_refused(names: list[str], why: str) -> None:
    asked = config(compare={"built_in": names})
    with pytest.raises(ConfigError, match=f"^compare.built_in: {why}"):
        choose(asked, None)
    with pytest.raises(ConfigError, match=f"^compare.built_in: {why}"):
        require_arms(asked, None, {})


def test_gradients_are_not_stepped_along_as_reptile_steps_along_differences() -> None:
    base = resolve(load_config("sinusoid-reptile"))
    assert (base.server.optimizer, base.server.lr) == ("SGD", 1.0)
    assert settings(base, "pretrained")["server"] == {"optimizer": "Adam", "lr": 0.001}


def test_the_local_step_of_fedavg_is_that_of_its_server_too() -> None:
    """Plain averaging is a server step of the local step size along the summed local gradients."""
    own = {"compare": {"arms": {"fedavg": {"local_lr": 0.3}}}}
    changed = settings(config(**own), "fedavg")
    assert (changed["local_lr"], changed["server"]["lr"]) == (0.3, 0.3)


def test_options_that_need_replies_are_switched_off_without_a_federation() -> None:
    base = resolve(load_config("staked"))
    assert settings(base, "local") == {
        "training": "local",
        "behaviours": [],
        "incentives.rule": "none",
        "chain.provider": "none",
    }
    assert settings(base, "federated") == {}


@pytest.mark.parametrize("name", ["federated", "federated-iid", "fedavg"])
def test_a_federated_arm_is_one_whatever_the_config_does(name: str) -> None:
    assert settings(config(training="local"), name)["training"] == "federated"


def test_a_config_changes_an_arm_and_adds_one() -> None:
    tables = {"fedavg": {"local_steps": 2, "server": {"lr": 0.5}}, "fewer": {"cohort": 2}}
    arms, _ = choose(config(compare={"arms": tables}), None)
    by_name = {arm.name: arm for arm in arms}
    assert list(by_name) == [*NINE[:-1], "fewer"]
    assert by_name["fewer"].settings == {"cohort": 2}
    assert by_name["fewer"].what == "The config with cohort = 2"
    fedavg = by_name["fedavg"]
    assert (fedavg.settings["local_steps"], fedavg.settings["server.lr"]) == (2, 0.5)
    assert fedavg.what.endswith("Changed: local_steps = 2, server.lr = 0.5.")


def test_an_arm_that_the_family_cannot_do_is_left_out_or_refused_if_it_is_named() -> None:
    base = config(task=f"{__name__}:WithoutPartition")
    arms, notes = choose(base, None)
    assert "federated-iid" not in [arm.name for arm in arms]
    assert "has no data.partition: left out" in notes[0]
    with pytest.raises(ConfigError, match=r"arm 'federated-iid': task '.*' has no data.partition"):
        choose(base, ["federated-iid"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["federatd"], "unknown arm 'federatd': did you mean 'federated'?"),
        (["local", "local"], "arm 'local' is named twice"),
        ([], "there is no arm to compare"),
    ],
)
def test_a_wrong_choice_is_refused(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        choose(config(), names)
    assert message in str(refused.value)


def test_an_arms_name_is_fit_for_a_folder() -> None:
    with pytest.raises(ConfigError, match=r"an arm's name has only letters, digits, - and _"):
        load_config("quickstart", {"compare": {"arms": {"../x": {}}}})


def test_variations_of_the_command_line() -> None:
    texts = [
        "a:cohort=2,network.hidden=[8, 4],algorithm=fomaml",
        'b:description="x,y",server={lr=1,a=2}',
    ]
    assert parse_arms(texts) == {
        "a": {"cohort": 2, "network.hidden": [8, 4], "algorithm": "fomaml"},
        "b": {"description": "x,y", "server": {"lr": 1, "a": 2}},
    }


@pytest.mark.parametrize("text", ["fewer", "fewer:", ":cohort=2", "fewer:cohort", "fewer:cohort=2,"])
def test_an_invalid_variation_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected name:key=value"):
        parse_arms([text])


def test_nested_tables_become_dotted_keys() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": 2}, "e": {}, "f": [1]}) == {
        "a.b.c": 1,
        "a.d": 2,
        "e": {},
        "f": [1],
    }
