from typing import Any

import pytest

from fedmeta.errors import ConfigError
from fedmeta.learning import ALGORITHMS, AlgorithmSetup, build_algorithm, resolve_setup
from tests.learning.cases import CASES

SPEC = CASES["image-mlp"].spec


def test_the_algorithms_and_models_of_the_config_exist() -> None:
    assert {"maml", "fomaml", "reptile", "meta_sgd", "protonet", "fedavg"} <= set(ALGORITHMS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "mmal"}, "unknown algorithm 'mmal': did you mean 'maml'"),
        ({"algorithm": "collections:OrderedDict"}, "not a subclass of fedmeta.learning.Algorithm"),
        ({"model": "conv5"}, "unknown model 'conv5': did you mean 'conv4'"),
        (
            {"learner": {"iner_lr": 0.1}},
            "unknown key 'learner.iner_lr': did you mean 'learner.inner_lr'",
        ),
        ({"learner": {"inner_lr": -0.1}}, r"learner.inner_lr: .*greater than 0 \(got -0.1\)"),
        ({"learner": {"inner_lr": 0}}, "learner.inner_lr: .*greater than 0"),
        ({"learner": {"inner_steps": 0}}, "learner.inner_steps: .*must be at least 1"),
        ({"network": {"hidden": [8, 0]}}, "network.hidden.1: .*greater than 0"),
        ({"network": {"hiden": [8]}}, "unknown key 'network.hiden': did you mean 'network.hidden'"),
    ],
)
def test_a_wrong_choice_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    plain: dict[str, Any] = {"algorithm": "maml", "learner": {}, "model": "mlp", "network": {}}
    with pytest.raises(ConfigError, match=message) as refusal:
        build_algorithm(AlgorithmSetup(**(plain | changes)), SPEC)
    assert "\n" not in str(refusal.value)


def test_resolving_writes_the_defaults_down() -> None:
    setup = resolve_setup(AlgorithmSetup("maml", {"inner_lr": 0.4}, "conv4", {}))
    assert setup.learner == {"inner_lr": 0.4, "inner_steps": 1}
    assert setup.network == {"width": 64, "pooling": "stride"}
