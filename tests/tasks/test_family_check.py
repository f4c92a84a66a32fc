"""Checks of the tasks that a user's family draws; refusals name the client."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from fedmeta.errors import ConfigError, DataError
from fedmeta.options import Options
from fedmeta.tasks import Population, TaskBatch, TaskSpec, stream
from fedmeta.tasks.family_check import CheckedFamily, check_family
from fedmeta.tasks.graph import GraphShape

IMAGES = TaskSpec("classification", (2, 3), 4)
WAVES = TaskSpec("regression", (1,), 2)
TEXT = TaskSpec("classification", (5,), 6, vocabulary=6)
GRAPHS = TaskSpec("regression", (3, 4), 2, graph=GraphShape((3, 2), 1, 2))
SPECS = {"images": IMAGES, "waves": WAVES, "text": TEXT, "graphs": GRAPHS}


def good(spec: TaskSpec, count: int, rows: int = 8) -> TaskBatch:
    sides: list[Tensor] = []
    for _ in range(2):
        if spec.vocabulary:
            x = torch.arange(rows * 5).remainder(6).reshape(1, rows, 5).repeat(count, 1, 1)
            sides += [x, x]
        elif spec.objective == "regression":
            sides += [torch.ones(count, rows, *spec.input_shape), torch.ones(count, rows, 2)]
        else:
            sides += [torch.ones(count, rows, 2, 3), torch.arange(rows).remainder(4).repeat(count, 1)]
    return TaskBatch(*sides)


class Family:
    """Draws good tasks, changed for some clients."""

    Options: ClassVar[type[Options]] = Options

    def __init__(
        self,
        spec: TaskSpec,
        change: Callable[[dict[str, Any]], Any] = lambda sides: None,
        clients: tuple[int, ...] = (5,),
        population: Population | None = None,
    ) -> None:
        self.spec, self.change, self.clients = spec, change, clients
        self.population = population or Population(6, 2, 2)

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        sides = dict(good(self.spec, count).tensors())
        if client in self.clients:
            self.change(sides)
        return TaskBatch(**sides)


def wrap(family: Family) -> CheckedFamily:
    return CheckedFamily(family, family.population)


def draw(family: Family, client: int = 5, count: int = 2) -> TaskBatch:
    return wrap(family).sample(client, count, stream(0, "test"))


def put(name: str, value: Callable[[Tensor], Any]) -> Callable[[dict[str, Any]], None]:
    def change(sides: dict[str, Any]) -> None:
        sides[name] = value(sides[name])

    return change


def with_entry(value: float, at: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor[at] = value
        return tensor

    return change


WRONG = {
    "labels from one": (
        "images",
        "support_y",
        lambda y: y + 1,
        "holds 4, but labels.* 0 and 3; count from 0",
    ),
    "one label too large": ("images", "query_y", with_entry(9, (0, 0)), "query_y holds 9"),
    "a negative label": ("images", "query_y", with_entry(-1, (1, 2)), "holds -1"),
    "ignore_index": ("images", "query_y", with_entry(-100, (0, 1)), "holds -100: leave examples"),
    "ignore_index in text": (
        "text",
        "support_y",
        with_entry(-100, (0, 0, 0)),
        "holds -100: leave examples",
    ),
    "one-hot": ("images", "support_y", lambda y: torch.eye(4)[y], "one-hot.*argmax"),
    "one-hot integers": ("images", "query_y", lambda y: torch.eye(4, dtype=torch.int64)[y], "one-hot"),
    "real labels": ("images", "support_y", lambda y: y.float(), "float32, but labels must be integers"),
    "labels an image short": ("images", "query_y", lambda y: y[:, :-1], r"shape \[2, 7\]"),
    "bytes for images": ("images", "support_x", lambda x: x.to(torch.uint8), "uint8: scale it.*x / 255"),
    "whole numbers for images": ("images", "query_x", lambda x: x.long(), "int64: scale it"),
    "sides turned": (
        "images",
        "support_x",
        lambda x: x.transpose(2, 3),
        r"\[2, 8, 3, 2\], not \[2, exam",
    ),
    "no example": ("images", "query_x", lambda x: x[:, :0], "query_x has no examples"),
    "a NaN": ("images", "support_x", with_entry(float("nan"), (1, 7, 1, 2)), "support_x holds NaN"),
    "an infinity": ("waves", "query_y", with_entry(float("inf"), (0, 0, 1)), "query_y holds NaN or inf"),
    "targets without their axis": (
        "waves",
        "query_y",
        lambda y: y[..., 0],
        r"\[2, 8\], not \[2, 8, 2\]",
    ),
    "too few tasks": ("waves", "support_x", lambda x: x[:1], r"\[1, 8, 1\], not \[2, examples, 1\]"),
    "an array": ("waves", "support_x", lambda x: x.numpy(), "is a ndarray, not a tensor"),
    "real tokens": ("text", "support_x", lambda x: x.float(), "float32, but tokens must be integers"),
    "a node without a row": ("graphs", "support_x", with_entry(4, (1, 2, 0, 2)), "spec.graph does not"),
    "half a neighbour": ("graphs", "query_x", with_entry(0.5, (0, 1, 1, 2)), "spec.graph does not"),
    "a token too large": ("text", "query_x", with_entry(6, (0, 3, 4)), "holds 6, but tokens"),
}


@pytest.mark.parametrize("case", WRONG)
def test_tasks_that_are_not_what_the_family_says_are_refused_with_their_client(case: str) -> None:
    spec, name, value, message = WRONG[case]
    family = Family(SPECS[spec], put(name, value))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=f"(?s)tasks of client 5.*{message}") as refusal:
        draw(family)
    assert "\n" not in str(refusal.value)
    draw(family, client=4)


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.int16, torch.int64])
def test_labels_of_any_integer_type_are_the_same_labels(kind: torch.dtype) -> None:
    drawn = draw(Family(IMAGES, put("support_y", lambda y: y.to(kind))))
    assert drawn.support_y.dtype == torch.int64
    assert torch.equal(drawn.support_y, good(IMAGES, 2).support_y)


def test_whole_numbers_are_targets_of_a_regression() -> None:
    assert draw(Family(WAVES, put("query_y", lambda y: y.long()))).query_y.dtype == torch.float32


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_good_tasks_pass_as_they_are(spec: TaskSpec) -> None:
    drawn, expected = draw(Family(spec)), good(spec, 2)
    assert dict(drawn.tensors()).keys() == dict(expected.tensors()).keys()
    assert all(torch.equal(value, dict(expected.tensors())[key]) for key, value in drawn.tensors())


@pytest.mark.parametrize("client", [0, 5, 6, 9])
def test_before_a_run_clients_of_every_split_are_tried(client: int) -> None:
    family = Family(IMAGES, put("support_y", lambda y: y + 1), (client,))
    with pytest.raises(ConfigError, match=f"client {client}: support_y holds 4"):
        check_family(wrap(family), seed=0)


def test_a_client_that_cannot_draw_is_named_and_if_none_can_the_run_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def raises(sides: dict[str, Any]) -> None:
        raise ValueError("2 examples, 15 needed")

    check_family(wrap(Family(IMAGES, raises, (3, 4))), seed=0)
    assert (
        "client 3 cannot draw tasks (ValueError: 2 examples, 15 needed), nor can 1 others" in caplog.text
    )
    with pytest.raises(ConfigError, match=r"no client can draw a task \(client 0: ValueError: 2 exam"):
        check_family(wrap(Family(IMAGES, raises, tuple(range(10)))), seed=0)


def test_clients_whose_tasks_differ_in_shape_are_named(caplog: pytest.LogCaptureFixture) -> None:
    def shorter(sides: dict[str, Any]) -> None:
        sides |= {"query_x": sides["query_x"][:, :4], "query_y": sides["query_y"][:, :4]}

    check_family(wrap(Family(IMAGES, shorter, (6, 7, 8, 9))), seed=0)
    assert not caplog.records
    check_family(wrap(Family(IMAGES, shorter, (2,))), seed=0)
    assert "tasks of train clients 0 and 2 differ in shape" in caplog.text


def test_of_many_clients_a_few_are_tried_evenly_spread() -> None:
    tried: list[int] = []

    class Counting(Family):
        def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
            tried.append(client)
            return super().sample(client, count, rng)

    check_family(wrap(Counting(WAVES, population=Population(10**6, 0, 10))), seed=0)
    training = [client for client in tried if client < 10**6]
    assert set(range(10**6, 10**6 + 10)) < set(tried)
    assert [len(training), min(training), max(training)] == [32, 0, 10**6 - 1]


def test_graphs_have_as_many_columns_as_their_layout() -> None:
    with pytest.raises(ConfigError, match=r"graphs of 4 columns do not fit inputs of shape \(3, 5\)"):
        TaskSpec("regression", (3, 5), 2, graph=GraphShape((3, 2), 1, 2))
