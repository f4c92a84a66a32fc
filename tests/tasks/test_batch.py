"""Task batches of any tensors, and of the four usual ones."""

import pytest
import torch

from fedmeta.tasks import MASK, TaskBatch, padded


def episodes(tasks: int = 3) -> TaskBatch:
    """Tasks of reinforcement learning: goals, one of them a task, and a seed."""
    goals = torch.arange(tasks * 2.0).view(tasks, 1, 2)
    seeds = torch.arange(tasks).view(tasks, 1)
    return TaskBatch({"goal": goals, "seed": seeds}, {"goal": -goals, "seed": seeds + 10})


def four(tasks: int = 2) -> tuple[torch.Tensor, ...]:
    x = torch.arange(tasks * 6.0).view(tasks, 3, 2)
    y = torch.arange(tasks * 3).view(tasks, 3)
    return x, y, -x, y + 1


def test_a_batch_is_as_long_as_its_tasks_and_is_cut_and_joined_along_them() -> None:
    batch = episodes()
    assert [len(batch), len(batch[:1]), len(batch[torch.tensor([2, 0])])] == [3, 1, 2]
    assert batch[torch.tensor([2, 0])].query["seed"].tolist() == [[12], [10]]
    again = TaskBatch.concat([batch[:1], batch[1:]])
    assert all(
        torch.equal(a, b) for (_, a), (_, b) in zip(again.tensors(), batch.tensors(), strict=True)
    )


def test_batches_of_other_tensors_are_not_joined() -> None:
    other = TaskBatch({"goal": torch.zeros(1, 1, 2)}, episodes(1).query)
    with pytest.raises(ValueError, match="different tensors"):
        TaskBatch.concat([episodes(1), other])


def test_real_numbers_are_cast_and_all_are_moved() -> None:
    wide = episodes().to(torch.float64)
    assert [tensor.dtype for _, tensor in wide.tensors()] == [torch.float64, torch.int64] * 2
    there = episodes().to(device="meta")
    assert {tensor.device.type for _, tensor in there.tensors()} == {"meta"}
    assert [tensor.dtype for _, tensor in there.tensors()] == [torch.float32, torch.int64] * 2
    assert wide.to(torch.float64) is wide
    assert wide.to(device="cpu") is wide


def test_four_tensors_are_inputs_and_targets_of_both_halves_by_place_or_by_name() -> None:
    names = ("support_x", "support_y", "query_x", "query_y")
    tensors = four()
    for batch in (TaskBatch(*tensors), TaskBatch(**dict(zip(names, tensors, strict=True)))):
        assert [name for name, _ in batch.tensors()] == list(names)
        assert (batch.support["x"] is tensors[0], batch.query["y"] is tensors[3]) == (True, True)
        assert all(getattr(batch, name) is tensor for name, tensor in zip(names, tensors, strict=True))
    with pytest.raises(TypeError, match="TaskBatch takes support, query, or support_x"):
        TaskBatch(*tensors[:3])  # type: ignore[call-overload]


def test_support_and_query_are_one_set_and_only_a_mask_may_be_in_one_alone() -> None:
    x, y, other_x, other_y = four()
    plain = TaskBatch(x, y, other_x, other_y).all_examples
    assert torch.equal(plain["x"], torch.cat([x, other_x], 1))
    mask = torch.tensor([[True, True, False], [True, False, False]])
    ragged = TaskBatch({"x": x, "y": y, MASK: mask}, {"x": other_x, "y": other_y}).all_examples
    assert ragged[MASK].sum(1).tolist() == [5, 4]
    with pytest.raises(ValueError, match=r"support has \['x', 'y'\], but query \['x'\]"):
        _ = TaskBatch({"x": x, "y": y}, {"x": x}).all_examples


def test_tasks_of_different_size_are_filled_up_with_zeros() -> None:
    tasks = [{"x": torch.ones(n, 2), "y": torch.full((n,), 7)} for n in (1, 3, 2)]
    made = padded(tasks, 4)
    assert made["x"].sum((1, 2)).tolist() == [2.0, 6.0, 4.0]
    assert made["y"].tolist() == [[7, 0, 0, 0], [7, 7, 7, 0], [7, 7, 0, 0]]
    assert made[MASK].tolist() == [[n > i for i in range(4)] for n in (1, 3, 2)]
