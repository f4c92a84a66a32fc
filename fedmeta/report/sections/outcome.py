"""The results of a comparison."""

from typing_extensions import override

from fedmeta.report.arms import Arms
from fedmeta.report.page import Figure, Section
from fedmeta.report.sections import ReportSection


class Outcome(ReportSection):
    """Each arm's results, and the differences to the first one."""

    order = 20

    @staticmethod
    @override
    def of_comparison(arms: Arms) -> Section:
        failed = [arm for arm in arms.all if arm.status == "failed"]
        lines = (f"{arm.name} failed: {arm.error or 'no reason given'}." for arm in failed)
        forest = arms.forest()
        tables = [arms.finals(), arms.differences(), arms.within(), arms.settings()]
        return Section(
            key="outcome",
            title="Results",
            text=f"The test clients' {arms.measure} by adaptation step. {arms.intervals}",
            warning=" ".join(lines),
            figures=[] if forest.empty else [Figure(forest)],
            tables=[table for table in tables if table.rows],
        )
