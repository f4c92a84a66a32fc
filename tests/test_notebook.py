"""In a notebook a loaded run shows its curve and its result."""

from pathlib import Path

import fedmeta
from fedmeta.experiment import Config, run
from fedmeta.report.snippet import compare_snippet
from tests.experiment.helpers import TINY


def test_a_loaded_run_is_a_curve_and_a_table(tmp_path: Path) -> None:
    run(Config(**TINY), out=tmp_path / "a-run")
    html = fedmeta.load(tmp_path / "a-run")._repr_html_()
    assert "a-run" in html
    assert html.count("<svg") == 1
    assert html.count("<tr>") == 1 + len(TINY["evaluation"]["steps"])
    assert "<script" not in html
    assert str(tmp_path) not in html


def test_a_comparison_is_curves_and_tables(tmp_path: Path) -> None:
    changes = {"rounds": 2, "evaluation.track": 1, "evaluation.every": 0}
    compared = fedmeta.compare(
        Config(**TINY),
        changes,
        arms=["centralized", "federated"],
        seeds=2,
        execution=fedmeta.Execution(out=tmp_path / "c", jobs=1),
    )
    html = compare_snippet(compared.folder)
    assert html.count("<svg") == 2
    assert html.count("centralized") >= 3
    assert html.count("<tr>") == (1 + 2) + (1 + 1)
    assert "<script" not in html
    (tmp_path / "c" / "compare.json").write_text('{"<b>": ')
    assert "compare.json is damaged" in compare_snippet(tmp_path / "c")
