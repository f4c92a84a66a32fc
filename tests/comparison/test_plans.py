"""From arms to configs: the budget, comparability, and errors."""

from pathlib import Path
from typing import Any, Literal

import pytest

from fedmeta.comparison.arms import choose
from fedmeta.comparison.plans import ArmPlan, budget, plan_arms
from fedmeta.errors import ConfigError
from fedmeta.experiment import Config, load_config
from fedmeta.experiment.planning import resolve
from fedmeta.tasks import Sinusoid
from tests.comparison.helpers import DIGITS, TINY
from tests.tasks.data.mnist_writing import write_mnist


def plans(
    names: list[str] | None = None, seeds: tuple[int, ...] = (0,), **changes: Any
) -> list[ArmPlan]:
    config = Config(**TINY | changes)
    return plan_arms(config, choose(resolve(config), names)[0], seeds)


def varied(table: dict[str, Any], base: dict[str, Any] = TINY) -> Config:
    arms = base | {"compare": {"arms": {"varied": table}}}
    return plans(["varied"], **arms)[0].configs[0]


@pytest.mark.parametrize("base", [TINY, DIGITS], ids=["sinusoid", "digits"])
def test_every_arm_has_the_same_tasks_and_evaluation(base: dict[str, Any]) -> None:
    for plan in plans(None, **base):
        config = plan.configs[0]
        untrained = plan.arm.name in ("untrained", "prototypes")
        assert budget(config) == (0 if untrained else 10 * 4 * 2)
        assert (config.evaluation.tasks, config.evaluation.steps) == (4, (0, 1, 3))
        assert config.evaluation.track == max(1, config.rounds // 5)
        assert config.workers == 1
        assert config.compare == Config(**TINY | {"compare": {}}).compare


def test_more_local_steps_mean_fewer_rounds() -> None:
    rounds = {plan.arm.name: plan.configs[0].rounds for plan in plans()}
    assert rounds["fedavg"] == 2
    assert rounds["untrained"] == 0
    assert {rounds[name] for name in rounds if name not in ("fedavg", "untrained")} == {10}


def test_each_seed_has_its_config() -> None:
    assert [config.seed for config in plans(["local"], (7, 8, 9))[0].configs] == [7, 8, 9]


def test_a_budget_that_does_not_divide_names_rounds_that_do() -> None:
    """FedAvg takes 40 tasks a round, the federation 8: its rounds must be multiples of 5."""
    with pytest.raises(ConfigError) as refused:
        plans(["fedavg"], rounds=12)
    assert str(refused.value) == (
        "arm 'fedavg': 96 training tasks are not a multiple of the 40 tasks of a round: "
        "set the experiment's rounds to 10 or 15 (now 12), or the arm's own"
    )
    with pytest.raises(ConfigError, match=r"rounds to 5 \(now 2\)"):
        plans(["fedavg"], rounds=2)


def test_the_arms_about_another_network_are_tested_on_the_same_tasks() -> None:
    """They differ in their model alone: a change of the test is refused in them as in any arm."""
    base = Config(**DIGITS)
    assert [plan.configs[0].network for plan in plans(["linear", "prototypes"], **DIGITS)] == [
        {"hidden": [], "activation": "relu"},
        {"hidden": [], "activation": "relu"},
    ]
    arms, _ = choose(
        resolve(Config(**DIGITS | {"compare": {"arms": {"linear": {"data.ways": 2}}}})), ["linear"]
    )
    with pytest.raises(ConfigError, match=r"arm 'linear': data\.ways differs from the experiment's"):
        plan_arms(base, arms, [0])


def test_an_arm_keeps_its_own_rounds() -> None:
    assert varied({"rounds": 3, "local_steps": 5}).rounds == 3


def test_the_quorum_follows_the_cohort() -> None:
    assert varied({"cohort": 2}).quorum == 1


def test_another_algorithm_keeps_the_options_that_it_has() -> None:
    base = TINY | {"learner": {"inner_lr": 0.05, "inner_steps": 3}}
    assert varied({"algorithm": "fomaml"}, base).learner == {"inner_lr": 0.05, "inner_steps": 3}
    assert varied({"algorithm": "fedavg"}, base).learner == {"inner_lr": 0.05}
    classes = DIGITS | {"learner": {"inner_lr": 0.05}}
    assert varied({"algorithm": "protonet"}, classes).learner == {}


def test_training_data_may_differ() -> None:
    assert varied({"data.partition": "iid"}).data["partition"] == "iid"
    tested_on_one = DIGITS | {"data": DIGITS["data"] | {"test_shots": 1}}
    assert varied({"data": {"shots": 2}}, tested_on_one).data["shots"] == 2


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"task": "sinusoid", "data": {}}, "task"),
        ({"model": "conv4", "data": {"layout": "image"}, "network": {}}, "model"),
        ({"network": {"hidden": [4]}}, "network"),
        ({"transductive": False}, "transductive"),
        ({"dtype": "float64"}, "dtype"),
        ({"test_clients": 1}, "test_clients"),
        ({"validation_clients": 1}, "validation_clients"),
        ({"evaluation": {"tasks": 5}}, "evaluation.tasks"),
        ({"evaluation": {"steps": [0, 1]}}, "evaluation.steps"),
        ({"data": {"ways": 4}}, "data.ways"),
        ({"data": {"shots": 2}}, "data.shots"),
        ({"data": {"test_ways": 2}}, "data.test_ways"),
    ],
)
def test_an_arm_whose_results_are_not_comparable_is_refused(table: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        varied(table, DIGITS)
    assert str(refused.value).startswith(f"arm 'varied': {key} differs from the experiment's")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"chort": 2}, "arm 'varied': unknown key 'chort': did you mean 'cohort'?"),
        ({"algorithm": "mmal"}, "arm 'varied': unknown algorithm 'mmal': did you mean 'maml'?"),
        ({"learner.inner_lr": -1}, "arm 'varied': learner.inner_lr"),
        ({"cohort": 99}, "arm 'varied': cohort = 99 is larger than the population"),
        ({"seed": 3}, "arm 'varied': seed: all arms have the same seeds"),
        ({"compare": {"points": 3}}, "arm 'varied': compare.points: an arm cannot change"),
        ({"cohort": "x"}, "arm 'varied': cohort: must be an integer"),
    ],
)
def test_a_mistake_in_an_arm_names_the_arm(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        varied(table)
    assert str(refused.value).startswith(message)


class Redeclared(Sinusoid):
    """A family of one's own that declares an option as ours do, and says nothing of arms."""

    class Options(Sinusoid.Options):
        """Options of the family.

        Attributes:
            partition: As ours.
        """

        partition: Literal["natural", "iid"] = "natural"


def test_arms_may_split_a_family_of_ones_own_that_calls_its_options_as_ours() -> None:
    split = plans(["federated-iid", "federated"], task=f"{__name__}:Redeclared")
    assert [plan.configs[0].data["partition"] for plan in split] == ["iid", "natural"]


@pytest.mark.parametrize(
    "table",
    [
        {"network": {"hidden": []}},
        {"network": {"hidden": [4, 4]}, "algorithm": "fomaml"},
        {"network": {"activation": "tanh"}, "algorithm": "protonet"},
    ],
)
def test_only_an_arm_that_trains_nothing_may_have_another_network(table: dict[str, Any]) -> None:
    network = varied(table | {"rounds": 0}, DIGITS).network
    assert {key: network[key] for key in table["network"]} == table["network"]
    with pytest.raises(ConfigError, match=r"^arm 'varied': network differs from the experiment's"):
        varied(table, DIGITS)


def test_an_arm_that_trains_nothing_is_tested_on_the_same_tasks() -> None:
    with pytest.raises(ConfigError, match=r"data\.ways differs from the experiment's"):
        varied({"rounds": 0, "data": {"ways": 2}}, DIGITS)


def test_the_demos_baselines_do_not_train_and_are_tested_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMETA_DATA", str(tmp_path))
    write_mnist(tmp_path, each=150)
    config = load_config("mnist")
    names = ["federated", "prototypes", "untrained-linear", "untrained"]
    made = plan_arms(config, choose(resolve(config), names)[0], [0])
    first, *others = [plan.configs[0] for plan in made]
    assert budget(first) == 300 * 24
    for other in others:
        assert budget(other) == 0
        for key in ("task", "data", "clients", "test_clients", "transductive", "seed"):
            assert getattr(other, key) == getattr(first, key)
        assert other.evaluation.steps == first.evaluation.steps
        assert other.evaluation.tasks == first.evaluation.tasks
    # The head of a linear layer, no layer at all, and the experiment's own network.
    assert [config.network.get("hidden") for config in others] == [[], [], None]
