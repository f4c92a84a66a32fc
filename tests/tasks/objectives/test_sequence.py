import torch
import torch.nn.functional as F

from fedmeta.tasks import TaskSpec, build_objective


def test_accuracy_is_measured_at_each_instance_of_a_class() -> None:
    """Labels 0 1 0 1 1 0 are instances 1 1 2 2 3 3; said is 0 1 1 1 0 0: right at 1, 1, 2 and 3."""
    objective = build_objective(TaskSpec("sequence", (1,), 2, instances=3))
    labels, said = torch.tensor([[0, 1, 0, 1, 1, 0]]), torch.tensor([[0, 1, 1, 1, 0, 0]])
    found = objective.measure(F.one_hot(said, 2).double(), {"y": labels})
    assert list(found) == list(objective.measures)
    assert {name: float(value) for name, value in found.items()} == {
        "accuracy": 4 / 6,
        "accuracy_at_1": 1.0,
        "accuracy_at_2": 0.5,
        "accuracy_at_3": 0.5,
    }


def test_at_most_ten_instances_are_measured() -> None:
    objective = build_objective(TaskSpec("sequence", (1,), 2, instances=30))
    assert list(objective.measures)[-1] == "accuracy_at_10"
