"""What a run learned: the support examples behind predictions, and what adaptation changes."""

from functools import partial

from typing_extensions import override

from fedmeta.errors import DataError
from fedmeta.experiment.explanations import Explanations, read
from fedmeta.report.charts import Heatmap
from fedmeta.report.explained import (
    evidence_of,
    evidence_table,
    layer_charts,
    maps_of,
    memory_charts,
    rates_chart,
)
from fedmeta.report.page import Figure, Section, figures_of
from fedmeta.report.read import RunFiles
from fedmeta.report.sections import ReportSection
from fedmeta.report.sections.examples import read_pictures

KEY, TITLE = "explanation", "What was learned"


class Explanation(ReportSection):
    """Explanations of a few test tasks."""

    order = 75

    @staticmethod
    @override
    def of_run(run: RunFiles) -> Section | None:
        try:
            found = read(run.path)
        except DataError as error:
            return Section(key=KEY, title=TITLE, warning=f"{error}.")
        if found is None:
            return None
        pictures = read_pictures(run.path)
        evidence = [
            evidence_of(task, pictures[place] if place < len(pictures) else None)
            for place, task in enumerate(found.tasks)
        ]
        notes = dict.fromkeys(task.note for task in found.tasks if task.note)
        return Section(
            key=KEY,
            title=TITLE,
            text=" ".join([_TEXT, *notes]),
            evidence=[one for one in evidence if one is not None],
            figures=_figures(found),
            files=[partial(evidence_table, found)] if any(evidence) else [],
        )


_TEXT = (
    "The first task examples, explained: which support examples the predictions rest on, and what "
    "adaptation or training changes."
)


def _figures(found: Explanations) -> list[Figure]:
    figures = []
    for number, task in enumerate(found.tasks):
        # A table of coordinates says nothing; `--csv` writes them.
        figures += [Figure(chart) for chart in maps_of(number, task)]
        if task.memory is not None:
            figures += [Figure(one) for one in memory_charts(number, task.client, task.memory)]
    figures += figures_of(layer_charts(found.tasks, found.steps))
    rates = rates_chart(found.rates, found.initial_rate)
    if isinstance(rates, Heatmap):
        figures.append(Figure(rates))
    elif rates is not None:
        figures += figures_of([rates])
    return figures
