"""Swapping a part: options of the old part are dropped with a note, explicit settings stay."""

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

import fedmeta
from fedmeta.cli.main import main
from fedmeta.comparison.arms import choose
from fedmeta.comparison.plans import plan_arms
from fedmeta.config import Config
from fedmeta.errors import ConfigError
from fedmeta.experiment import planning
from fedmeta.experiment.swap import load, swapped
from fedmeta.options import parse_options
from tests.experiment.helpers import contents

FEW = {"rounds": 1, "workers": 1, "clients": 12, "test_clients": 2, "cohort": 2, "evaluation.tasks": 2}


class Net(nn.Module):
    """A network of the user's, whose argument is called as one of the MLP's and means another thing."""

    def __init__(self, hidden: str = "narrow") -> None:
        super().__init__()
        self.layer = nn.Linear(64, {"narrow": 5}[hidden])

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


def tables(settings: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    config, left_out = load("quickstart", settings)
    found = {"data": config.data, "learner": config.learner, "network": config.network}
    return found, {one.path for one in left_out}


@pytest.mark.parametrize(
    ("settings", "table", "kept", "gone"),
    [
        ({"model": "conv4"}, "network", {}, {"network.hidden"}),
        ({"model": "conv4", "network.width": 8}, "network", {"width": 8}, {"network.hidden"}),
        ({"algorithm": "protonet"}, "learner", {}, {"learner.inner_lr", "learner.inner_steps"}),
        # FOMAML and FedAvg learn at a rate too; FedAvg has no number of inner steps.
        ({"algorithm": "fomaml"}, "learner", {"inner_lr": 0.4, "inner_steps": 5}, set()),
        ({"algorithm": "fedavg"}, "learner", {"inner_lr": 0.4}, {"learner.inner_steps"}),
        # An LSTM's `hidden` is a number, and not the MLP's list.
        ({"model": "lstm"}, "network", {}, {"network.hidden"}),
        ({"model": Net}, "network", {}, {"network.hidden"}),
        ({"task": "sinusoid"}, "data", {"shots": 1, "queries": 4}, {"data.ways", "data.layout"}),
        # The same part, said again, is no other one.
        ({"model": "mlp", "algorithm": "maml"}, "network", {"hidden": [128, 64]}, set()),
    ],
)
def test_options_that_only_the_old_part_had_are_left_out(
    settings: dict[str, Any], table: str, kept: dict[str, Any], gone: set[str]
) -> None:
    found, left_out = tables(settings)
    assert found[table] == kept
    assert left_out == gone


def test_rules_and_optimizers_are_parts_too() -> None:
    values = {
        "aggregation": {"rule": "trimmed-mean", "trim": 0.3},
        "server": {
            "optimizer": "Adam",
            "lr": 0.1,
            "options": {"betas": [0.5, 0.9], "weight_decay": 0.1},
        },
    }
    merged, left_out = swapped(values, {"aggregation.rule": "median", "server.optimizer": "SGD"})
    assert merged["aggregation"] == {"rule": "median"}
    assert merged["server"] == {"optimizer": "SGD", "lr": 0.1, "options": {"weight_decay": 0.1}}
    assert [str(one) for one in left_out] == [
        "aggregation.trim = 0.3 is dropped: aggregation.rule 'median' does not have it",
        "server.options.betas = [0.5, 0.9] is dropped: server.optimizer 'SGD' does not have it",
    ]
    assert values["server"]["options"]["betas"] == [0.5, 0.9], "what was given is as it was"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "conv4", "network.hidden": [3]}, "unknown key 'network.hidden'"),
        ({"model": "conv4", "network": {"hidden": [3]}}, "unknown key 'network.hidden'"),
        ({"learner.inner_steps": 2, "algorithm": "protonet"}, "unknown key 'learner.inner_steps'"),
        ({"task": "sinusoid", "data.ways": 5}, "unknown key 'data.ways'"),
        ({"algorithm": "proto"}, "unknown algorithm 'proto': did you mean 'protonet'"),
    ],
)
def test_settings_on_the_command_line_are_refused_rather_than_dropped(
    settings: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        fedmeta.run("quickstart", settings, out=tmp_path / "run")
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("settings", [{"model": "conv4"}, {"algorithm": "protonet"}])
def test_the_quickstart_runs_with_another_part_from_python_and_says_what_it_left_out(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    lines: list[str] = []
    listener = fedmeta.Listener(note=lines.append)
    small = {"network.width": 4} if "model" in settings else {}
    result = fedmeta.run("quickstart", FEW | settings | small, out=tmp_path / "run", listener=listener)
    assert result.status == "finished"
    assert sum("is dropped" in line for line in lines) == (1 if "model" in settings else 2)


def test_a_config_from_python_may_be_swapped_in_as_well(tmp_path: Path) -> None:
    config, _ = load("quickstart", FEW)
    again, left_out = load(planning.resolve(config), {"model": Net})
    assert again.network == {}
    # Of a resolved config the defaults of the old part go too.
    assert {one.path for one in left_out} == {"network.hidden", "network.activation"}


def test_the_command_line_says_it_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = [word for key, value in FEW.items() for word in ("-s", f"{key}={value}")]
    with pytest.raises(SystemExit) as end:
        main(
            [
                "run",
                "quickstart",
                "-s",
                "algorithm=protonet",
                *few,
                "--out",
                str(tmp_path / "r"),
                "--json",
            ]
        )
    said = capsys.readouterr()
    assert end.value.code in (0, None)
    assert "learner.inner_lr = 0.4 is dropped: algorithm 'protonet' does not have it" in said.err
    assert "left out" not in said.out


def test_arms_of_the_experiment_follow_a_part_that_was_swapped() -> None:
    settings = FEW | {"algorithm": "protonet", "clients": 30, "cohort": 10, "rounds": 5}
    config, _ = load("quickstart", settings)
    names = ["federated", "local", "fedavg", "protonet"]
    arms, _ = choose(planning.resolve(config), names, settings)
    plans = {plan.arm.name: plan for plan in plan_arms(config, arms, [0])}
    assert plans["local"].configs[0].learner == {}
    assert plans["local"].configs[0].server.lr == 0.0001, "what is of no part stays"
    assert [one.path for one in plans["local"].left_out] == ["learner.inner_lr"]
    # FedAvg is FedAvg whatever the others do, and keeps its rate.
    assert plans["fedavg"].configs[0].learner == {"inner_lr": 0.2}
    assert plans["fedavg"].left_out == ()


def test_settings_of_an_arm_on_the_command_line_are_refused() -> None:
    settings = FEW | {"algorithm": "protonet", "compare.arms.local.learner.inner_lr": 0.3}
    config, _ = load("quickstart", settings)
    arms, _ = choose(planning.resolve(config), ["local"], settings)
    with pytest.raises(ConfigError, match=r"arm 'local': unknown key 'learner\.inner_lr'"):
        plan_arms(config, arms, [0])


def test_an_arm_with_another_network_leaves_out_the_experiment_s_options() -> None:
    config, _ = load("quickstart", FEW)
    base = parse_options(
        Config, config.model_dump() | {"compare": {"arms": {"c": {"algorithm": "protonet"}}}}
    )
    arms, _ = choose(planning.resolve(base), ["c"])
    (plan,) = plan_arms(base, arms, [0])
    assert plan.configs[0].learner == {}
    assert {one.path for one in plan.left_out} == {"learner.inner_lr", "learner.inner_steps"}


def test_another_layout_of_the_same_images_trains_the_mlp_to_the_same_bits(tmp_path: Path) -> None:
    """The quickstart has images, so that a convolution fits as well; an MLP flattens them itself."""
    for layout in ("flat", "image"):
        fedmeta.run("quickstart", FEW | {"data.layout": layout}, out=tmp_path / layout)
    ours, theirs = (contents(tmp_path / layout) for layout in ("flat", "image"))
    assert ours["round-000001.safetensors"] == theirs["round-000001.safetensors"]
