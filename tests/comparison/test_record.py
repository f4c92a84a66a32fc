"""``compare.json`` is written by one function and read by another; a later version's is left alone."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from fedmeta.comparison.compare import Execution, compare
from fedmeta.comparison.record import COMPARE, later_version, parse, write, written
from fedmeta.errors import DataError, UsageError
from fedmeta.experiment import Config
from fedmeta.report.read import read_compare
from tests.experiment.helpers import TINY

LITTLE: dict[str, Any] = {
    "experiment": "run",
    "status": "finished",
    "seeds": [0],
    "steps": [0, 1],
    "measure": "loss",
    "arms": [],
}


def test_a_written_record_is_read_and_can_be_drawn(tmp_path: Path) -> None:
    data = write(tmp_path, LITTLE | {"wall_seconds": math.inf})
    assert data == written(tmp_path) == json.loads((tmp_path / COMPARE).read_text())
    assert (data["kind"], data["version"], data["wall_seconds"]) == ("compare", 1, None)
    assert parse(data).experiment == "run"


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"mean": 1e300}, "arms.0.final.0.mean: must be less than 1e+300"),
        ({"mean": "high"}, "arms.0.final.0.mean: must be a number"),
        ({"values": [0.5, True]}, "arms.0.final.0.values.1"),
        ({"diverged": [0.5]}, "arms.0.final.0.diverged.0: must be an integer"),
    ],
)
def test_values_that_cannot_be_drawn_are_refused_with_their_place(
    changes: dict[str, Any], where: str
) -> None:
    arm = {"name": "a", "status": "finished", "final": [{"step": 0, "mean": 0.5} | changes]}
    with pytest.raises(DataError, match=re.escape(f"compare.json: {where}")):
        parse(LITTLE | {"kind": "compare", "version": 1, "arms": [arm]})


def test_a_record_has_what_the_file_says_and_ignores_what_it_does_not_know() -> None:
    reach = {"reached": 1, "rounds": {"mean": 4, "values": [4, None]}, "in_lightyears": 3}
    arm = {"name": "a", "status": "finished", "to_target": reach, "bytes_up": 2**40}
    about = {"command": "fedmeta compare run", "wall_seconds": 60.0}
    record = parse(LITTLE | about | {"kind": "compare", "version": 1, "arms": [arm]})
    assert record.model_extra == about
    [read] = record.arms
    assert (read.bytes_up, read.final, read.runs) == (2**40, None, [])
    assert read.to_target is not None
    assert read.to_target.rounds is not None
    assert (read.to_target.rounds.values, read.to_target.bytes) == ([4, None], None)


@pytest.mark.parametrize(
    ("versions", "named"), [({"fedmeta": "8.0"}, "8.0"), ({}, r"\?"), ([1], r"\?"), (None, r"\?")]
)
def test_a_comparison_of_a_later_version_is_refused_by_its_name(
    tmp_path: Path, versions: object, named: str
) -> None:
    write(tmp_path, LITTLE)
    text = json.dumps(LITTLE | {"kind": "compare", "version": 2, "versions": versions, "arms": "many"})
    (tmp_path / COMPARE).write_text(text)
    found = read_compare(tmp_path)
    assert found.status == "unreadable"
    assert str(found.problem).startswith("compare.json: it is of version 2, written by fedmeta ")
    config = Config(**TINY | {"test_clients": 1})
    with pytest.raises(UsageError, match=rf"of version 2, written by fedmeta {named}: .* another --out"):
        compare(config, arms=["centralized", "federated"], execution=Execution(out=tmp_path))
    assert (tmp_path / COMPARE).read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == [COMPARE]


@pytest.mark.parametrize("found", [None, 0, 1, True, "2", 2.0, [2]])
def test_a_file_without_a_later_version_is_judged_by_its_contents(found: object) -> None:
    assert later_version({"version": found}) is None
