"""A user's mods: what they see, what their changes do, and how a wrong one is reported."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import MessageType

from fedmeta.errors import ConfigError
from fedmeta.experiment import Config
from fedmeta.experiment.planning import resolve
from fedmeta.federation import Learner, Plan, ServerOptions
from fedmeta.federation.mods import user_mods
from fedmeta.learning import Tensors
from tests.experiment.helpers import TINY
from tests.federation import flower_parts
from tests.federation.helpers import SINUSOID, assert_same, run_on_grid
from tests.federation.test_flower_replies import ask, request

PARTS = "tests.federation.flower_parts"
PLAN = Plan(rounds=2, cohort=4, server=ServerOptions(optimizer="SGD", lr=0.5))


@pytest.fixture(autouse=True)
def _fresh() -> None:
    flower_parts.SHOWN.clear()


def trained(*names: str, plan: Plan = PLAN) -> Tensors:
    """The state after a run with the same mods around all clients."""
    mods = user_mods([f"{PARTS}:{name}" for name in names], SINUSOID.local_lr)
    everybody = dict.fromkeys(range(12), mods)
    snapshot, _ = run_on_grid(SINUSOID, plan, mods=everybody)
    return snapshot.state


def test_a_mod_sees_weights_as_flowers_strategies_send_them_and_gets_them() -> None:
    trained("look", plan=replace(PLAN, rounds=1))
    start = Learner.build(SINUSOID).init_state()
    assert len(flower_parts.SHOWN) == 4
    for shown in flower_parts.SHOWN:
        assert shown["config"] == {"server-round": 1}
        assert shown["metrics"]["num-examples"] == 1
        assert set(shown["metrics"]) == {"num-examples", "loss", "loss_before"}
        for key, value in shown["sent"].items():
            np.testing.assert_array_equal(value, start[key].numpy())
            moved = np.abs(shown["back"][key] - value).max()
            assert 0 <= moved < 1.0
    learner = Learner.build(SINUSOID)
    cohort_updates = [learner.train(start, 1, [client]).updates for client in range(12)]
    found = flower_parts.SHOWN[0]
    errors = [
        max(
            float(np.abs(found["back"][k] - (start[k].numpy() - 0.01 * update[k][0].numpy())).max())
            for k in start
        )
        for update in cohort_updates
    ]
    assert min(errors) < 1e-6, "weights are the state minus local_lr times somebody's update"


def test_a_mod_that_changes_nothing_changes_no_bit() -> None:
    honest = trained()
    looked = trained("look")
    for key, value in honest.items():
        # Who has a mod is computed alone, which rounds otherwise than a stack.
        torch.testing.assert_close(looked[key], value, rtol=1e-5, atol=1e-6)
    assert_same(trained("look", "look"), looked)


def test_the_server_steps_along_a_mods_change_of_the_weights() -> None:
    """Half the way in weights is half the pseudo-gradient: a step at twice the rate undoes it."""
    plan = replace(PLAN, rounds=1)
    double = replace(plan, server=ServerOptions(optimizer="SGD", lr=1.0))
    halved, whole = trained("halve", plan=double), trained("look", plan=plan)
    quartered = trained(
        "halve", "halve", plan=replace(plan, server=ServerOptions(optimizer="SGD", lr=2.0))
    )
    for key, value in whole.items():
        torch.testing.assert_close(halved[key], value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(quartered[key], value, rtol=1e-5, atol=1e-6)


def test_a_request_of_flowers_own_strategies_goes_through_the_mods_as_it_is() -> None:
    content = {"server-round": 1}
    plain = ask(SINUSOID, 3, MessageType.TRAIN, request(SINUSOID, **content))
    mods = user_mods([f"{PARTS}:halve"], SINUSOID.local_lr)
    halved = ask(SINUSOID, 3, MessageType.TRAIN, request(SINUSOID, **content), mods=mods)
    start = Learner.build(SINUSOID).init_state()
    for key, array in halved.content.array_records["arrays"].items():
        whole = plain.content.array_records["arrays"][key].numpy()
        np.testing.assert_allclose(array.numpy(), (start[key].numpy() + whole) / 2, rtol=1e-6)


def test_evaluation_goes_past_the_mods() -> None:
    mods = user_mods([f"{PARTS}:halve"], SINUSOID.local_lr)
    content = request(SINUSOID, round=1)
    with_mods = ask(SINUSOID, 13, MessageType.EVALUATE, content, mods=mods)
    without = ask(SINUSOID, 13, MessageType.EVALUATE, request(SINUSOID, round=1))
    assert with_mods.content.metric_records == without.content.metric_records


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.at_all:mod", r"mods\.1 'nowhere\.at_all:mod' cannot be imported"),
        (f"{PARTS}:halv", r"no 'halv' there; did you mean 'halve'"),
        (f"{PARTS}:not_a_mod", r"mods\.1: '.*not_a_mod' is not a Flower mod, a function of \(message"),
        (f"{PARTS}:no_strategy", "is not a Flower mod"),
        ("flwr.clientapp.mod:LocalDpMod", "LocalDpMod' is not a Flower mod"),
        ("halve", r"mods\.1: 'halve' is not a dotted path, such as 'my_module:my_mod'"),
    ],
)
def test_a_path_that_leads_to_no_mod_is_one_line(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resolve(Config(**TINY, mods=[f"{PARTS}:halve", path]))
    assert "\n" not in str(caught.value)


def test_training_without_a_federation_has_no_mods() -> None:
    with pytest.raises(ValueError, match="has no server and no replies: unset mods"):
        Config(**{**TINY, "training": "centralized", "mods": [f"{PARTS}:halve"]})
