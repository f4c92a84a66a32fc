"""Task batches: T tasks at once, as named tensors with the task axis first."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

Examples = Mapping[str, Tensor]
"""One half of a batch: tensors ``[T, B, ...]`` by name, B examples of each of T tasks."""

MASK = "mask"
"""Name of the bool tensor ``[T, B]`` of a half whose tasks differ in size: False marks padding."""


@dataclass(frozen=True, init=False)
class TaskBatch:
    """T tasks at once; every tensor has the task axis first, most have the example axis second.

    The names of tensors are up to the family and its objective; classification and regression read
    inputs ``x`` and targets ``y``. A half whose tasks differ in size also has a ``mask``, see `padded`.

    Attributes:
        support: The examples to adapt to: ``x [T, S, *input_shape]``, float (or int64 tokens), and
            ``y [T, S, ...]``, int64 labels in ``[0, outputs)``, or float ``[T, S, outputs]``.
        query: The examples to predict after adaptation, likewise with Q examples.
    """

    support: Examples
    query: Examples

    @overload
    def __init__(self, support: Examples, query: Examples) -> None: ...

    @overload
    def __init__(
        self, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor
    ) -> None: ...

    def __init__(self, *halves: Examples | Tensor, **named: Examples | Tensor) -> None:
        """Take both halves, or the four tensors ``support_x, support_y, query_x, query_y``."""
        names = _FOUR if len(halves) + len(named) == len(_FOUR) else _TWO
        sides: Sequence[Any] = halves
        if named and len(halves) + len(named) == len(names) and set(names[len(halves) :]) == set(named):
            sides = (*halves, *(named[name] for name in names[len(halves) :]))
        if len(sides) != len(names):
            raise TypeError(f"TaskBatch takes {', '.join(_TWO)}, or {', '.join(_FOUR)}")
        if names is _FOUR:
            sides = {"x": sides[0], "y": sides[1]}, {"x": sides[2], "y": sides[3]}
        object.__setattr__(self, "support", sides[0])
        object.__setattr__(self, "query", sides[1])

    @property
    def support_x(self) -> Tensor:
        """Inputs of the support set."""
        return self.support["x"]

    @property
    def support_y(self) -> Tensor:
        """Targets of the support set."""
        return self.support["y"]

    @property
    def query_x(self) -> Tensor:
        """Inputs of the query set."""
        return self.query["x"]

    @property
    def query_y(self) -> Tensor:
        """Targets of the query set."""
        return self.query["y"]

    def __len__(self) -> int:
        return int(next(iter(self.support.values())).shape[0])

    def __getitem__(self, tasks: slice | Tensor) -> "TaskBatch":
        return self.map(lambda tensor: tensor[tasks])

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the name of every tensor, such as ``support_x``, and the tensor, sorted in each half."""
        for half in _TWO:
            examples: Examples = getattr(self, half)
            for key in sorted(examples):
                yield f"{half}_{key}", examples[key]

    def with_tensors(self, tensors: Sequence[Tensor]) -> "TaskBatch":
        """Return a batch with other tensors, given in the order of the method `tensors`."""
        new = {name: tensor for (name, _), tensor in zip(self.tensors(), tensors, strict=True)}
        return TaskBatch(
            {key: new[f"support_{key}"] for key in self.support},
            {key: new[f"query_{key}"] for key in self.query},
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> "TaskBatch":
        """Return the batch with `change` applied to every tensor."""
        return TaskBatch(
            {key: change(value) for key, value in self.support.items()},
            {key: change(value) for key, value in self.query.items()},
        )

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> "TaskBatch":
        """Cast floating-point tensors to `dtype` and move all to `device`; None: unchanged."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None)

        # Called for every client in every round; most batches need no change.
        where = None if device is None else torch.device(device)
        for value in (*self.support.values(), *self.query.values()):
            if where is not None and value.device != where:
                return self.map(moved)
            if dtype is not None and value.dtype != dtype and value.is_floating_point():
                return self.map(moved)
        return self

    @property
    def all_examples(self) -> Examples:
        """Support and query as one set of examples.

        Raises:
            ValueError: If they do not have the same tensors.
        """
        support, query = self.support, self.query
        if MASK in support or MASK in query:
            support, query = _masked(support), _masked(query)
        if support.keys() != query.keys():
            raise ValueError(f"support has {sorted(support)}, but query {sorted(query)}")
        return {key: torch.cat([value, query[key]], dim=1) for key, value in support.items()}

    @staticmethod
    def concat(batches: Sequence["TaskBatch"]) -> "TaskBatch":
        """Join batches of equally shaped tasks along the task axis, in the order given.

        Raises:
            ValueError: If they do not have the same tensors.
        """
        if len(batches) == 1:
            return batches[0]
        return TaskBatch(
            _joined([batch.support for batch in batches]), _joined([batch.query for batch in batches])
        )


_TWO = ("support", "query")
_FOUR = ("support_x", "support_y", "query_x", "query_y")


def _joined(halves: Sequence[Examples]) -> Examples:
    first = halves[0]
    if any(half.keys() != first.keys() for half in halves):
        raise ValueError("batches with different tensors cannot be joined")
    return {key: torch.cat([half[key] for half in halves]) for key in first}


def _masked(examples: Examples) -> Examples:
    if MASK in examples:
        return examples
    like = next(iter(examples.values()))
    return {**examples, MASK: torch.ones(like.shape[:2], dtype=torch.bool, device=like.device)}


def padded(tasks: Sequence[Examples], size: int) -> Examples:
    """Stack tasks of different size, ``[B_t, ...]`` each, to ``[T, size, ...]`` with a ``mask``.

    Padding is zeros. Choose `size` as the largest of any task of the family, so that all clients' tasks
    have the same shape and can be computed in one stack.
    """
    rows = [len(next(iter(task.values()))) for task in tasks]
    made = {}
    for key, like in tasks[0].items():
        made[key] = like.new_zeros(len(tasks), size, *like.shape[1:])
        for row, (task, count) in enumerate(zip(tasks, rows, strict=True)):
            made[key][row, :count] = task[key]
    mask = torch.arange(size) < torch.tensor(rows).unsqueeze(1)
    made[MASK] = mask.to(next(iter(made.values())).device)
    return made
