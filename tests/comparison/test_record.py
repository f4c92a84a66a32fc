"""``compare.json`` is written by one function and read by another; a later version's is left alone."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fedmeta.comparison.compare import Execution, compare
from fedmeta.comparison.record import COMPARE, later_version, problem_of_compare, write, written
from fedmeta.errors import UsageError
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


def test_what_is_written_is_read_and_can_be_drawn(tmp_path: Path) -> None:
    data = write(tmp_path, LITTLE | {"wall_seconds": math.inf})
    assert data == written(tmp_path) == json.loads((tmp_path / COMPARE).read_text())
    assert (data["kind"], data["version"], data["wall_seconds"]) == ("compare", 1, None)
    assert problem_of_compare(data) is None


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
def test_what_is_no_later_version_is_judged_by_its_contents(found: object) -> None:
    assert later_version({"version": found}) is None
