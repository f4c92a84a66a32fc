"""A comparison as the page shows it, also while it runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fedmeta.report.comparison import compare_part
from fedmeta.report.files import CompareFiles, read_compare
from fedmeta.serve.index import Entry, Index
from fedmeta.serve.runs import report_view, section_view
from fedmeta.serve.summary import summary

_LEFT_OUT = ("runs",)


def comparison_view(entry: Entry, index: Index) -> dict[str, Any]:
    """Return a comparison's arms and what the report says of them.

    Args:
        entry: The comparison.
        index: What may be read: a run of an arm that is not in it is named and not read.
    """
    files = read_compare(entry.path)
    part = compare_part(_served(files, index), "comparison", entry.path)
    return summary(entry) | {
        "said": part.said,
        "results": [one for one in part.results if one[1] != "–"],
        "arms": [_arm(arm, entry.path, index) for arm in files.data.get("arms", [])],
        "sections": [section_view(one) for one in part.sections if one.key not in _LEFT_OUT],
        "report": report_view(entry),
    }


def _served(files: CompareFiles, index: Index) -> CompareFiles:
    """Return the same comparison with those runs alone that may be read."""
    arms = [
        arm | {"runs": [run for run in arm.get("runs", []) if index.id_of(files.path / run["run"])]}
        for arm in files.data.get("arms", [])
    ]
    return replace(files, data=files.data | {"arms": arms}) if files.data else files


def _arm(arm: dict[str, Any], folder: Path, index: Index) -> dict[str, Any]:
    runs = [
        {
            "id": index.id_of(folder / run["run"]),
            "seed": run["seed"],
            "status": run["status"],
            "error": run.get("error"),
        }
        for run in arm.get("runs", [])
    ]
    kept = {key: arm.get(key) for key in ("name", "what", "status", "error")}
    return kept | {"runs": runs}
