"""How benchmark results are printed and serialised."""

import json

import pytest

from fedmeta.bench import Goal, Result, find_cases


@pytest.mark.parametrize(
    ("value", "sense", "met"),
    [(2.0, "at least", True), (1.9, "at least", False), (2.0, "at most", True), (2.1, "at most", False)],
)
def test_a_goal_is_met_on_the_right_side_of_its_bound(value: float, sense: str, met: bool):
    assert Goal("figure", value, 2.0, sense).met is met


def test_a_case_without_a_rival_has_no_ratio_and_is_still_json():
    goals = (Goal("MiB", 3.0, 4.0, "at most"),)
    result = Result("alone", "itself", 1.5, None, None, None, 1, 2, goals)
    printed = json.loads(json.dumps(result.to_json()))
    assert (printed["ratio"], printed["rival_ms"], printed["rival"]) == (None, None, None)
    assert printed["goals"] == [
        {"what": "MiB", "value": 3.0, "goal": "at most 4", "met": True, "spread": None}
    ]


def test_all_selects_every_case():
    names = [case.name for case in find_cases("all")]
    learning = ["kernels", "maml-sinusoid", "maml-sinusoid-compiled", "maml-conv4"]
    rest = ["grid-overhead", "population", "clients", "engines", "chain-cost", "chain-round"]
    assert names == [*learning, *rest]
