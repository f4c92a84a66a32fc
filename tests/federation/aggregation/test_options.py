"""A rule declares its keys in its own file; `[aggregation]` has the keys of all rules."""

import pytest

from fedmeta.errors import ConfigError
from fedmeta.federation.aggregation import AGGREGATION_RULES, AggregationOptions
from fedmeta.options import declared, parse_options

WHOSE = {
    "malicious": {"bulyan", "krum", "multi-krum"},
    "keep": {"multi-krum"},
    "trim": {"trimmed-mean"},
}


def test_each_key_is_declared_beside_a_rule_that_reads_it_and_nowhere_else() -> None:
    own = {name: AGGREGATION_RULES.get(name).Options for name in AGGREGATION_RULES}
    assert set(AggregationOptions.model_fields) == {"rule", "options", *WHOSE}
    for key, rules in WHOSE.items():
        assert {name for name, kind in own.items() if key in kind.model_fields} == rules
        declaring = {
            kind for kind in AggregationOptions.__mro__ if key in vars(kind).get("__annotations__", ())
        }
        (one,) = declaring
        assert one.__module__.startswith("fedmeta.federation.aggregation.")


def test_key_descriptions_are_read_from_the_rules_file() -> None:
    said = {one.path: one.meaning for one in declared(AggregationOptions)}
    assert said["trim"].startswith("Share of values that ``trimmed-mean`` drops")
    assert all(said.values())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"rule": "krum", "malicious": 1, "keep": 2},
            "keep has no effect with rule 'krum': .* multi-krum$",
        ),
        (
            {"rule": "trimmed-mean", "malicious": 1},
            "malicious has no effect .* bulyan, krum, multi-krum$",
        ),
        (
            {"rule": "bulyan"},
            "rule 'bulyan' tolerates no malicious client with malicious = 0: set at least 1",
        ),
        ({"rule": "median", "options": {"a": 1}}, "options has no effect .* a Flower strategy$"),
        (
            {"rule": "median", "trimm": 0.1},
            "unknown key 'aggregation.trimm': did you mean 'aggregation.trim'",
        ),
    ],
)
def test_a_key_without_effect_is_refused_with_the_part_it_belongs_to(
    table: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_options(AggregationOptions, table, "aggregation")


def test_an_old_config_with_the_defaults_of_all_rules_is_read() -> None:
    table = {"rule": "mean", "malicious": 0, "trim": 0.2, "options": {}}
    assert parse_options(AggregationOptions, table) == AggregationOptions()
