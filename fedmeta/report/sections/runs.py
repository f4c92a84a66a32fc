"""The runs of a comparison's arms."""

import os
from urllib.parse import quote

from typing_extensions import override

from fedmeta.report.arms import Arms
from fedmeta.report.page import Section
from fedmeta.report.sections import ReportSection
from fedmeta.report.tables import Cell, Link, Table


class Runs(ReportSection):
    """The runs of each arm, with links to their reports."""

    order = 110

    @staticmethod
    @override
    def of_comparison(arms: Arms) -> Section:
        rows: list[list[Cell]] = []
        for arm in arms.all:
            for run in arm.runs:
                path = arms.folder_of(run.run)
                link: Cell = run.run
                if path:
                    link = Link(run.run, f"{quote(os.path.relpath(path, arms.beside))}/")
                again = "yes" if run.reused else ""
                rows.append([arm.name, run.seed, run.status, again, run.error or "", link])
        columns = ["arm", "seed", "status", "reused", "error", "folder"]
        return Section("runs", "Runs", tables=[Table("runs", "The runs of each arm", columns, rows)])
