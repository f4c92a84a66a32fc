import torch

from fedmeta.tasks import TaskBatch


def tasks(labels: torch.dtype = torch.int64) -> TaskBatch:
    return TaskBatch(
        torch.ones(2, 3, 4),
        torch.ones(2, 3).to(labels),
        torch.ones(2, 1, 4),
        torch.ones(2, 1).to(labels),
    )


def test_casting_changes_real_numbers_and_no_labels() -> None:
    cast = tasks().to(torch.float64)
    assert cast.support_x.dtype == cast.query_x.dtype == torch.float64
    assert cast.support_y.dtype == cast.query_y.dtype == torch.int64
    regression = tasks(torch.float32).to(torch.float64)
    assert regression.support_y.dtype == regression.query_y.dtype == torch.float64


def test_tasks_that_have_the_type_already_are_not_copied() -> None:
    same = tasks()
    assert same.to(torch.float32) is same
