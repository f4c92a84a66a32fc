"""docs/comparison.ipynb is what its script makes, runs without errors, and contains no machine paths."""

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_notebook", DOCS / "make_notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def kept() -> object:
    return nbformat.read(DOCS / "comparison.ipynb", as_version=4)


def test_its_cells_are_those_of_its_maker(kept: object) -> None:
    made = maker().cells()
    assert [(cell.cell_type, cell.id, cell.source) for cell in kept.cells] == [
        (cell.cell_type, cell.id, cell.source) for cell in made
    ], "run `python docs/make_notebook.py`"


def test_it_was_executed_whole_and_without_an_error(kept: object) -> None:
    nbformat.validate(kept)
    code = [cell for cell in kept.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        ast.parse(cell.source)
        assert cell.outputs, cell.source
        assert {output.output_type for output in cell.outputs} <= {"execute_result", "stream"}
        assert all(output.get("name", "stdout") == "stdout" for output in cell.outputs)


def test_it_shows_no_path_of_a_machine() -> None:
    text = (DOCS / "comparison.ipynb").read_text(encoding="utf-8")
    assert re.findall(r"/(?:tmp|home|root|Users|work|usr|opt)/", text) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
def test_it_executes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = maker().execute()
    results = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert results[0][0]["data"]["text/plain"] == "'finished'"
    assert "federated-seed0" in results[3][0]["data"]["text/html"]
