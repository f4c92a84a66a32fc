"""Arms: which there are, what they set, and what a command line or a config makes of them."""

from typing import Any, ClassVar

import pytest

from fedmeta.errors import ConfigError
from fedmeta.experiment import Config, load_config
from fedmeta.experiment.compare.arms import choose, flatten, parse_arms
from fedmeta.experiment.plan import resolve
from fedmeta.options import Options
from fedmeta.tasks.sinusoid import Sinusoid

from .helpers import DIGITS, TINY

SIX = ["centralized", "federated-iid", "federated", "fedavg", "local", "pretrained"]


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


def test_all_six_are_there_in_the_order_of_the_page() -> None:
    arms, notes = choose(config(), None)
    assert [arm.name for arm in arms] == SIX
    assert notes == []
    assert all(arm.what.endswith(".") for arm in arms)


def test_what_the_arms_set() -> None:
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
    }


def test_labels_are_left_alone_where_the_family_has_no_such_option() -> None:
    assert "data.labels" not in settings(config(), "pretrained")


def test_gradients_are_not_stepped_along_as_reptile_steps_along_differences() -> None:
    base = resolve(load_config("sinusoid-reptile"))
    assert (base.server.optimizer, base.server.lr) == ("SGD", 1.0)
    assert settings(base, "pretrained")["server"] == {"optimizer": "Adam", "lr": 0.001}


def test_the_local_step_of_fedavg_is_that_of_its_server_too() -> None:
    """Plain averaging is a server step of the local step size along the summed local gradients."""
    own = {"compare": {"arms": {"fedavg": {"local_lr": 0.3}}}}
    changed = settings(config(**own), "fedavg")
    assert (changed["local_lr"], changed["server"]["lr"]) == (0.3, 0.3)


def test_what_needs_replies_is_switched_off_without_a_federation() -> None:
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
    assert list(by_name) == [*SIX, "fewer"]
    assert by_name["fewer"].settings == {"cohort": 2}
    assert by_name["fewer"].what == "The config with cohort = 2"
    fedavg = by_name["fedavg"]
    assert (fedavg.settings["local_steps"], fedavg.settings["server.lr"]) == (2, 0.5)
    assert fedavg.what.endswith("Changed: local_steps = 2, server.lr = 0.5.")


def test_an_arm_that_the_family_cannot_do_is_left_out_or_refused_if_it_is_named() -> None:
    base = config(task=f"{__name__}:WithoutPartition")
    arms, notes = choose(base, None)
    assert "federated-iid" not in [arm.name for arm in arms]
    assert len(notes) == 1
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
    with pytest.raises(ConfigError, match=r"an arm's name is of letters, digits, - and _"):
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
def test_a_variation_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected name:key=value"):
        parse_arms([text])


def test_nested_tables_become_dotted_keys() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": 2}, "e": {}, "f": [1]}) == {
        "a.b.c": 1,
        "a.d": 2,
        "e": {},
        "f": [1],
    }
