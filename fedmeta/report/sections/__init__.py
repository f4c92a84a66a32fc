"""The sections of a report: each is one module, a class named as its file."""

from typing import ClassVar

from fedmeta.registry import Registry
from fedmeta.report.arms import Arms
from fedmeta.report.page import Section
from fedmeta.report.read import RunFiles

SECTIONS: Registry[type["ReportSection"]] = Registry("section", "fedmeta.report.sections")
"""The sections by name; each is one file of `fedmeta.report.sections`."""


class ReportSection:
    """A section of the report of runs, of comparisons, or of both.

    Attributes:
        order: Sections come by rising order.
    """

    order: ClassVar[int]

    @staticmethod
    def of_run(run: RunFiles) -> Section | None:  # noqa: ARG004
        """Return what the section shows of a run; None: nothing."""
        return None

    @staticmethod
    def of_comparison(arms: Arms) -> Section | None:  # noqa: ARG004
        """Return what the section shows of a comparison; None: nothing."""
        return None


def sections_of_run(run: RunFiles) -> list[Section]:
    """Return the sections that a run has something for, in order."""
    return _present([section.of_run(run) for section in _in_order()])


def sections_of_comparison(arms: Arms) -> list[Section]:
    """Return the sections that a comparison has something for, in order."""
    return _present([section.of_comparison(arms) for section in _in_order()])


def _in_order() -> list[type[ReportSection]]:
    return sorted((SECTIONS.get(name) for name in SECTIONS), key=lambda section: section.order)


def _present(sections: list[Section | None]) -> list[Section]:
    return [section for section in sections if section is not None]
