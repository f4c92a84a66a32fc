"""Pydantic's errors reach users in plain words, whatever the key and the value."""

import re
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from fedmeta.config import Config, load_config
from fedmeta.errors import ConfigError
from fedmeta.options import Options, declared, parse_options
from fedmeta.parts import (
    AGGREGATION_RULES,
    ALGORITHMS,
    BEHAVIOURS,
    FAMILIES,
    INCENTIVE_RULES,
    MODELS,
    POSTPROCESSORS,
)
from fedmeta.plain_words import requirement

NOT_OURS = re.compile(r"\bshould\b|valid (integer|string|number|boolean)|Field required|Extra inputs")
WRONG: list[Any] = [
    *("x", "", -1, -0.5, 1.5, 2**70, float("nan"), float("inf"), True, None),
    *([], ["x", {}], {}),
]
REGISTRIES = (
    *(AGGREGATION_RULES, ALGORITHMS, BEHAVIOURS, FAMILIES, INCENTIVE_RULES, MODELS, POSTPROCESSORS),
)


class Everything(Options):
    whole: int = Field(3, ge=1, le=9)
    even: int = Field(2, multiple_of=2)
    share: float = Field(0.5, gt=0, lt=1)
    name: str = Field("a", min_length=1, max_length=3, pattern="^[a-z]*$")
    names: list[str] = Field(["a"], min_length=1, max_length=2)
    pair: list[int] = Field([1, 2], min_length=2)
    colour: Literal["red", "green", "blue"] = "red"
    only: Literal["this"] = "this"
    jobs: int | Literal["all"] = "all"
    size: int | float | None = None
    table: dict[str, Any] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("whole", 0, "whole: must be at least 1 (got 0)"),
        ("whole", 10, "whole: must be at most 9 (got 10)"),
        ("whole", "3", "whole: must be an integer (got '3')"),
        ("even", 3, "even: must be a multiple of 2 (got 3)"),
        ("share", 0.0, "share: must be greater than 0 (got 0.0)"),
        ("share", 1.0, "share: must be less than 1 (got 1.0)"),
        ("share", float("inf"), "share: must be a finite number (got inf)"),
        ("share", "half", "share: must be a number (got 'half')"),
        ("name", "", "name: must not be empty (got '')"),
        ("name", "abcd", "name: must have at most 3 characters (got 'abcd')"),
        ("name", "A", "name: must match the pattern ^[a-z]*$ (got 'A')"),
        ("names", [], "names: must not be empty (got [])"),
        ("names", ["a", "b", "c"], "names: must have at most 2 entries (got ['a', 'b', 'c'])"),
        ("names", ["a", 3], "names.1: must be text (got 3)"),
        ("names", "a", 'names: must be a list, such as [1, 2] or ["a", "b"] (got \'a\')'),
        ("pair", [1], "pair: must have at least 2 entries (got [1])"),
        ("colour", "grene", "colour: must be one of 'red', 'green' or 'blue' (got 'grene')"),
        ("only", "that", "only: must be 'this' (got 'that')"),
        ("jobs", 1.5, "jobs: must be an integer or 'all' (got 1.5)"),
        ("jobs", "some", "jobs: must be an integer or 'all' (got 'some')"),
        ("size", "big", "size: must be an integer or a number (got 'big')"),
        ("table", 3, 'table: must be a table of keys, such as {a = 1, b = "text"} (got 3)'),
    ],
)
def test_a_bad_value_gets_a_message_with_what_it_must_be(key: str, value: object, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_options(Everything, {key: value})
    assert str(refused.value) == said
    assert refused.value.key == said.partition(":")[0]


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_no_config_error_shows_the_librarys_wording(value: object) -> None:
    good = load_config("quickstart")
    said = []
    for one in declared(Config):
        table, _, name = one.path.rpartition(".")
        said += _refusals(one.kind, {**_defaults(good, table), name: value}, table)
    assert len(said) > 10
    assert [one for one in said if NOT_OURS.search(one) or "\n" in one] == []


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_no_option_error_shows_the_librarys_wording(value: object) -> None:
    said = []
    for options in (registry.options(name) for registry in REGISTRIES for name in registry):
        for name in options.model_fields if options else ():
            assert options is not None
            said += _refusals(options, {name: value}, "part")
    assert len(said) > 10
    assert [one for one in said if NOT_OURS.search(one) or "\n" in one] == []


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (bytes, 3, "must be a valid bytes"),
        (set[int], "x", "must be a valid set"),
        (int, "12x", "must be an integer"),
        (bool, "perhaps", "must be true or false"),
        (float, "x", "must be a number"),
    ],
)
def test_an_error_of_a_type_that_no_option_has_is_in_the_same_form(
    kind: type, value: object, said: str
) -> None:
    lax = type("Lax", (BaseModel,), {"__annotations__": {"x": kind}})
    with pytest.raises(ValidationError) as refused:
        lax.model_validate({"x": value})
    assert requirement(refused.value.errors()[0]) == said


def _refusals(kind: type[BaseModel], values: dict[str, Any], where: str) -> list[str]:
    try:
        parse_options(kind, values, where)
    except ConfigError as error:
        return [str(error)]
    return []


def _defaults(config: Config, table: str) -> dict[str, Any]:
    values: Any = config.model_dump()
    for name in table.split(".") if table else ():
        values = values[name]
    return dict(values)
