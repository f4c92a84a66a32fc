from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedmeta.errors import ConfigError
from fedmeta.learning import Algorithm, Tensors
from tests.learning.algorithms.test_maml import loss_of
from tests.learning.cases import CASES, WAYS, Case, make_learner, make_state, make_tasks, relative_error
from tests.learning.reference import from_module, to_module

CLASSES = 9
IMAGES = ["image-mlp", "conv4-stride", "conv4-max", "user-module"]


def global_case(name: str) -> Case:
    """The case with nine global classes; its test tasks have three ways."""
    case = CASES[name]
    network = {**case.network, **({"outputs": CLASSES} if name == "user-module" else {})}
    return replace(case, network=network, spec=replace(case.spec, outputs=CLASSES))


def with_zero_head(name: str, state: Tensors, task: int) -> Tensors:
    """One task's weights, with a head of zeros for three ways."""
    weights = {key: value[task] for key, value in state.items()}
    wide = weights["head.weight"]
    shape = (WAYS, wide.shape[1]) if name == "user-module" else (wide.shape[0], WAYS)
    zeros = {"head.weight": wide.new_zeros(shape), "head.bias": wide.new_zeros(WAYS)}
    return weights | zeros


@pytest.mark.parametrize("name", IMAGES)
def test_each_task_is_fine_tuned_with_a_new_head_as_torch_would(name: str) -> None:
    case = global_case(name)
    learner = make_learner("pretrained", case, inner_lr=0.3)
    tasks, state = make_tasks(CASES[name].spec), make_state(learner)
    adapted = learner.adapt(state, tasks.support, 4)
    predicted = learner.predict(state, adapted, tasks.query)
    assert predicted.shape == (*tasks.query_y.shape, WAYS)
    for task in range(len(tasks)):
        weights = with_zero_head(name, state, task)
        module = to_module(name, weights)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.3)
        for _ in range(4):
            optimizer.zero_grad()
            loss_of(CASES[name].spec, module, tasks.support_x[task], tasks.support_y[task]).backward()
            optimizer.step()
        expected = from_module(name, [value.detach() for value in module.parameters()], weights)
        own = {key: value[task] for key, value in adapted.items() if key in expected}
        assert relative_error(own, expected) < 1e-10
        assert torch.allclose(predicted[task], module(tasks.query_x[task]), atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_update_is_the_plain_gradient_on_all_examples_by_their_labels(name: str) -> None:
    case = global_case(name) if name in IMAGES else CASES[name]
    learner = make_learner("pretrained", case)
    tasks, state = make_tasks(case.spec, support=9), make_state(learner)
    updates, metrics = learner.task_updates(state, tasks)
    assert updates.keys() == state.keys()
    plain, same = make_learner("fedavg", case).task_updates(state, tasks)
    assert relative_error(updates, plain) == 0.0
    assert torch.equal(metrics["loss_before"], same["loss"])


def test_the_first_step_moves_a_head_of_zeros_to_the_centred_features() -> None:
    """With one example a class and uniform predictions, w_c becomes rate / N (h_c - mean h), b stays 0.

    The gradient of the mean cross-entropy by w_c is mean_i (1/N - [y_i = c]) h_i; a head of 0 passes
    none of it on to the features.
    """
    learner = make_learner("pretrained", global_case("image-mlp"), inner_lr=0.5)
    tasks, state = make_tasks(CASES["image-mlp"].spec, tasks=1, support=WAYS), make_state(learner, 1)
    adapted = learner.adapt(state, tasks.support, 1)
    x = tasks.support_x[0].flatten(1)
    hidden = torch.tanh(x @ state["hidden0.weight"][0] + state["hidden0.bias"][0])
    expected = 0.5 / WAYS * (hidden - hidden.mean(0)).T
    assert torch.allclose(adapted["head.weight"][0], expected, atol=1e-12)
    assert adapted["head.bias"].abs().max() < 1e-12
    assert torch.equal(adapted["hidden0.weight"], state["hidden0.weight"])


def test_before_adaptation_every_way_is_equally_likely() -> None:
    learner = make_learner("pretrained", global_case("conv4-stride"))
    tasks, state = make_tasks(CASES["conv4-stride"].spec), make_state(learner)
    for transductive in (True, False):
        adapted = learner.adapt(state, tasks.support, 0)
        logits = learner.predict(state, adapted, tasks.query, transductive)
        assert (logits == 0).all()
        assert learner.objective.measure(logits, tasks.query)["accuracy"].tolist() == pytest.approx(
            [1 / WAYS] * 2
        )


def test_a_task_may_have_more_ways_than_there_were_classes() -> None:
    learner = make_learner("pretrained", CASES["image-mlp"], inner_lr=1.0)
    tasks = make_tasks(replace(CASES["image-mlp"].spec, outputs=20), support=20, query=20)
    state = make_state(learner)
    adapted = learner.adapt(state, tasks.support, 30)
    logits = learner.predict(state, adapted, tasks.support)
    assert logits.shape == (2, 20, 20)
    assert learner.objective.measure(logits, tasks.support)["accuracy"].min() == 1.0


@pytest.mark.parametrize("transductive", [True, False])
def test_batch_norm_takes_its_statistics_where_the_mode_says(transductive: bool) -> None:
    name = "conv4-stride"
    learner = make_learner("pretrained", global_case(name), transductive)
    tasks, state = make_tasks(CASES[name].spec, tasks=1), make_state(learner, 1)
    adapted = learner.adapt(state, tasks.support, 2)
    all_at_once = learner.predict(state, adapted, tasks.query)
    one_by_one = torch.cat(
        [learner.predict(state, adapted, {"x": x[:, None]}) for x in tasks.query_x.unbind(1)], 1
    )
    assert torch.allclose(all_at_once, one_by_one, atol=1e-9) == (not transductive)


@pytest.mark.parametrize("name", ["sinusoid-mlp", "lstm"])
def test_where_targets_mean_the_same_in_all_tasks_the_head_is_kept(name: str) -> None:
    learner, plain = (make_learner(kind, CASES[name], inner_lr=0.1) for kind in ("pretrained", "fedavg"))
    tasks, state = make_tasks(CASES[name].spec), make_state(learner)
    one, other = (fit.adapt(state, tasks.support, 3) for fit in (learner, plain))
    assert relative_error(one, other) == 0.0
    assert not torch.equal(one["head.weight"], state["head.weight"])


class Backwards(nn.Module):
    """Declares its head first."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, WAYS)
        self.body = nn.Linear(144, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x.flatten(1))))


class Scaled(nn.Module):
    """Ends with something that is not linear in a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(144, WAYS)
        self.norm = nn.LayerNorm(WAYS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.head(x.flatten(1)))


class Square(nn.Module):
    """A head whose weights do not tell inputs from outputs by their shape, and no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(144, WAYS)
        self.last = nn.Linear(WAYS, WAYS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.body(x.flatten(1))))


def learner_with(kind: type[nn.Module]) -> Algorithm:
    return make_learner("pretrained", Case(f"{__name__}:{kind.__name__}"))


@pytest.mark.parametrize(("kind", "layer"), [(Backwards, "body"), (Scaled, "norm")])
def test_a_module_without_a_head_at_its_end_is_refused_in_one_line(
    kind: type[nn.Module], layer: str
) -> None:
    with pytest.raises(ConfigError, match=f"last layer, '{layer}', is not a head") as refusal:
        learner_with(kind)
    assert "\n" not in str(refusal.value)


def test_labels_that_differ_from_task_to_task_are_refused_in_one_line() -> None:
    case = CASES["image-mlp"]
    case = replace(case, spec=replace(case.spec, own_labels=True))
    with pytest.raises(ConfigError, match=r"set data\.labels = 'global'$") as refusal:
        make_learner("pretrained", case)
    assert "\n" not in str(refusal.value)
    assert make_learner("fedavg", case)


def test_the_axis_of_outputs_is_found_by_trial_where_shapes_do_not_tell() -> None:
    learner = learner_with(Square)
    tasks, state = make_tasks(CASES["image-mlp"].spec), make_state(learner)
    two_ways = tasks.support_y.clamp(max=1)
    adapted = learner.adapt(state, {"x": tasks.support_x, "y": two_ways}, 1)
    assert adapted["last.weight"].shape == (2, 2, WAYS)
    assert learner.predict(state, adapted, tasks.query).shape[-1] == 2
