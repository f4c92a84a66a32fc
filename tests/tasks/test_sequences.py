from typing import Any

import pytest
import torch

from fedmeta.tasks import Population, TaskBatch, build_family, stream
from fedmeta.tasks.sequences import NO_LABEL, SHOWN


def drawn(order: str, client: int = 0, **options: Any) -> TaskBatch:
    family = build_family(
        "digits", {"order": order, "queries": 2, **options}, Population(4, 0, 1), seed=0
    )
    return family.sample(client, 3, stream(5))


def pictures(examples: Any, task: int) -> list[tuple[Any, ...]]:
    """The examples of a task as (label, pixels...), sorted."""
    rows = zip(examples["y"][task].tolist(), examples["x"][task].tolist(), strict=True)
    return sorted((label, *x) for label, x in rows)


@pytest.mark.parametrize("client", [0, 4])
def test_a_shuffled_task_has_the_examples_of_the_grouped_one(client: int) -> None:
    grouped, shuffled = (drawn(order, client) for order in ("grouped", "shuffled"))
    for task in range(3):
        assert pictures(shuffled.support, task) == pictures(grouped.support, task)
        assert pictures(shuffled.query, task) == pictures(grouped.query, task)
    assert len({tuple(labels) for labels in shuffled.support_y.tolist()}) > 1


@pytest.mark.parametrize("client", [0, 4])
def test_a_sequence_has_all_examples_each_with_the_label_before(client: int) -> None:
    grouped, sequence = (drawn(order, client) for order in ("grouped", "sequence"))
    for task in range(3):
        assert pictures(sequence.query, task) == pictures(grouped.all_examples, task)
    assert sequence.support_x.shape == (3, 0, 64)
    for labels, shown in zip(sequence.query_y.tolist(), sequence.query[SHOWN].tolist(), strict=True):
        assert shown == [NO_LABEL, *labels[:-1]]


def test_the_order_is_drawn_anew_for_each_task_and_by_its_stream_alone() -> None:
    one, two = drawn("sequence"), drawn("sequence")
    assert torch.equal(one.query_y, two.query_y)
    assert len({tuple(labels) for labels in one.query_y.tolist()}) == 3
