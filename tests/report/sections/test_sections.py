"""A report's sections are found by their folder, in the order that they declare."""

from pathlib import Path

import pytest

import fedmeta.report.sections as folder
from fedmeta.report.parts import compare_part, run_part
from fedmeta.report.read import read_compare, read_run
from fedmeta.report.sections import SECTIONS, ReportSection

WEATHER = """
from fedmeta.report.page import Section
from fedmeta.report.sections import ReportSection

class Weather(ReportSection):
    order = 35

    @staticmethod
    def of_run(run):
        return Section("weather", "Weather", text="Fine.")
"""


def test_every_file_of_the_folder_is_a_section_with_a_place_of_its_own() -> None:
    assert set(SECTIONS) == {file.stem for file in Path(folder.__path__[0]).glob("[!_]*.py")}
    sections = [SECTIONS.get(name) for name in SECTIONS]
    assert all(issubclass(section, ReportSection) for section in sections)
    assert len({section.order for section in sections}) == len(sections)


def test_sections_of_runs_and_comparisons_are_in_the_order_of_their_files(
    digits: Path, chained: Path, comparison: Path
) -> None:
    keys = [section.key for section in run_part(read_run(digits), "it").sections]
    assert keys[:4] == ["learning", "adaptation", "communication", "spread"]
    assert keys[4:] == ["examples", "explanation", "quarantine", "rewards", "what"]
    assert [one.key for one in run_part(read_run(chained), "it").sections][-2:] == ["ledger", "what"]
    compared = compare_part(read_compare(comparison), "it", comparison).sections
    keys = [section.key for section in compared]
    assert keys == ["outcome", "learning", "adaptation", "costs", "spread", "runs", "what"]


def test_a_new_section_takes_its_place_in_a_run_and_stays_out_of_a_comparison(
    digits: Path, comparison: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new_section.py").write_text(WEATHER)
    monkeypatch.syspath_prepend(tmp_path)
    parts = {**SECTIONS._parts, "weather": ("new_section", "Weather")}
    monkeypatch.setitem(vars(SECTIONS), "_parts", parts)
    keys = [section.key for section in run_part(read_run(digits), "it").sections]
    assert keys[:3] == ["learning", "weather", "adaptation"]
    assert "weather" not in [
        section.key for section in compare_part(read_compare(comparison), "it", comparison).sections
    ]
