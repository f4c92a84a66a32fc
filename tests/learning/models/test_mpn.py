"""The message-passing network on molecules, compared with loops over atoms and their neighbours."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from fedmeta.errors import ConfigError
from fedmeta.files import to_json
from fedmeta.learning import build_model
from fedmeta.learning.models.mpn import BLOCK
from fedmeta.tasks import TaskBatch, TaskSpec
from fedmeta.tasks.data.molecule_graphs import MOLECULE, graphs
from tests.learning.cases import CASES, assert_gradient, loss_after, make_learner, make_state
from tests.learning.reference import to_module

# Two ions, a ring and a triple bond, three atoms, a metal alone, a charge, sulfur.
SMILES = ["CC(=O)[O-].[Na+]", "c1ccccc1C#N", "CC=C", "[Fe]", "C[N+](C)(C)C", "CS(=O)Cl"]
NEIGHBOURS = slice(len(MOLECULE.values), len(MOLECULE.values) + MOLECULE.neighbours)


@pytest.fixture
def molecules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    monkeypatch.setenv("FEDMETA_CACHE", str(tmp_path))
    return torch.from_numpy(np.array(graphs(SMILES, 10))).double()


def test_molecules_are_read_as_the_equation_says(molecules: Tensor) -> None:
    learner = make_learner("maml", CASES["mpn"])
    state = make_state(learner, tasks=2)
    outputs = learner.model.forward(state, torch.stack([molecules, molecules.flip(0)]))
    for task, asked in enumerate((molecules, molecules.flip(0))):
        module = to_module("mpn", {key: value[task] for key, value in state.items()})
        torch.testing.assert_close(outputs[task], module(asked), rtol=1e-10, atol=1e-12)
    # Molecules differ, so the equation is not met by a constant.
    assert float(outputs[0].std(0).min()) > 1e-3


def test_the_order_of_atoms_does_not_matter(molecules: Tensor) -> None:
    learner = make_learner("maml", CASES["mpn"])
    state = make_state(learner, tasks=1)
    order = torch.tensor([3, 9, 0, 7, 1, 5, 8, 2, 6, 4])
    # Row i is now at place[i]; a row of padding may be anywhere.
    place = torch.argsort(order)
    turned = molecules[:, order].clone()
    rows = turned[..., NEIGHBOURS].long()
    turned[..., NEIGHBOURS] = torch.where(rows > 0, place[rows - 1] + 1, 0).double()
    assert not torch.equal(turned, molecules)
    torch.testing.assert_close(
        learner.model.forward(state, turned[None]),
        learner.model.forward(state, molecules[None]),
        rtol=1e-12,
        atol=1e-14,
    )


def test_padding_changes_nothing(molecules: Tensor) -> None:
    learner = make_learner("maml", CASES["mpn"])
    state = make_state(learner, tasks=1)
    wider = torch.cat([molecules, torch.zeros(len(SMILES), 7, MOLECULE.columns).double()], 1)
    torch.testing.assert_close(
        learner.model.forward(state, wider[None]),
        learner.model.forward(state, molecules[None]),
        rtol=1e-12,
        atol=1e-14,
    )


def test_many_graphs_are_predicted_as_each_alone(molecules: Tensor) -> None:
    learner = make_learner("maml", CASES["mpn"])
    state = make_state(learner, tasks=1)
    many = molecules.repeat(BLOCK // 4, 1, 1)
    assert BLOCK < len(many) < 2 * BLOCK
    alone = learner.model.forward(state, molecules[None])
    torch.testing.assert_close(learner.model.forward(state, many[None]), alone.repeat(1, BLOCK // 4, 1))


def test_the_meta_gradient_on_molecules_agrees_with_finite_differences(molecules: Tensor) -> None:
    learner = make_learner("maml", CASES["mpn"], inner_steps=2, inner_lr=0.3)
    state = make_state(learner, tasks=1)
    labels = torch.arange(3)[None]
    tasks = TaskBatch(molecules[None, :3], labels, molecules[None, 3:], labels)
    gradient, _ = learner.task_updates(state, tasks)
    assert_gradient(lambda at: loss_after(learner, at, tasks, 2), state, gradient)


def test_the_shape_of_graphs_survives_a_run_s_record() -> None:
    spec = CASES["mpn"].spec
    assert TypeAdapter(TaskSpec).validate_json(to_json(asdict(spec))) == spec


def test_without_outputs_it_is_an_embedding_which_the_head_reads(molecules: Tensor) -> None:
    case = CASES["mpn"]
    learner = make_learner("maml", case)
    state = make_state(learner, tasks=2)
    x = torch.stack([molecules, molecules.flip(0)])
    embedding = build_model("mpn", case.network, case.spec, None)
    assert embedding.outputs == 5
    assert [*embedding.init(torch.Generator())] == [key for key in state if not key.startswith("head")]
    logits = embedding.forward(state, x) @ state["head.weight"] + state["head.bias"].unsqueeze(1)
    torch.testing.assert_close(learner.model.forward(state, x), logits)


@pytest.mark.parametrize("model", ["mlp", "conv4", "lstm", "tdnn", "resnet12"])
def test_other_models_refuse_graphs(model: str) -> None:
    with pytest.raises(ConfigError) as raised:
        build_model(model, {}, CASES["mpn"].spec, 2)
    said = f"model '{model}' cannot read graphs, which the task's inputs are; choose 'mpn'"
    assert str(raised.value) == said


@pytest.mark.parametrize("case", ["image-mlp", "sinusoid-mlp", "lstm", "tdnn"])
def test_inputs_that_are_no_graphs_are_refused(case: str) -> None:
    with pytest.raises(ConfigError, match=r"model 'mpn' reads graphs but .*features = 'graph'$"):
        build_model("mpn", {}, CASES[case].spec, 2)
