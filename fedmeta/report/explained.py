"""Charts and tables of a run's explanations."""

from collections.abc import Iterator, Sequence
from statistics import fmean

from fedmeta.experiment.explanations import (
    Explanations,
    FeatureMap,
    Layer,
    Memory,
    TaskExplanation,
    TensorRates,
)
from fedmeta.report.charts import Chart, Heatmap, Series
from fedmeta.report.page import Evidence, EvidenceRow, Guess
from fedmeta.report.tables import Cell, Table

MOST_LAYERS = 60
"""Layers of a chart; of more, as many at equal distances."""
MOST_CLASSES = 40
"""Classes of a map that have a colour."""
HOW = {
    "weights": "The method's own weights: how much each support example counts in a prediction.",
    "leave-one-out": "By how many percentage points the probability of the predicted class falls if the "
    "method adapts without a support example. Below 0: the example speaks against the prediction.",
}
Pictures = tuple[Sequence[str], Sequence[str]]
"""Pictures of a task's support examples, and of its queries."""


def evidence_of(task: TaskExplanation, pictures: Pictures | None) -> Evidence | None:
    """Return a table of a task's queries and support examples; None if they are not weighed."""
    if not task.how or not task.queries or not task.support:
        return None
    support, queries = pictures or ((), ())
    # Pictures of another number of examples are those of another task.
    support = support if len(support) == len(task.support) else ()
    order = sorted(range(len(task.support)), key=lambda one: task.support[one])
    values = [abs(value) for one in task.queries for value in one.support if value is not None]
    largest = max(values, default=0.0) or 1.0

    def cell(value: float | None) -> tuple[str, float]:
        if value is None:
            return "–", 0.0
        text = f"{100 * value:+.0f}" if task.how == "leave-one-out" else f"{100 * value:.0f}%"
        return ("0" if text in ("+0", "-0") else text.replace("-", "−")), value / largest

    rows = [
        EvidenceRow(
            queries[one.query] if one.query < len(queries) else "",
            one.label,
            Guess(one.predicted, one.probability, one.predicted == one.label),
            [cell(one.support[place]) for place in order],
        )
        for one in task.queries
    ]
    columns = [(support[place] if support else "", task.support[place]) for place in order]
    return Evidence(task.client, columns, rows, HOW[task.how])


def evidence_table(explanations: Explanations) -> Table:
    """Return the values of all tasks, one row for each query and support example."""
    columns = ["client", "query", "class", "predicted", "probability", "support", "its class", "value"]
    rows: list[Sequence[Cell]] = []
    for task in explanations.tasks:
        for one in task.queries:
            about = [task.client, one.query, one.label, one.predicted, one.probability]
            for place, value in enumerate(one.support):
                rows.append([*about, place, task.support[place], value])
    return Table("evidence", "Support examples behind predictions", columns, rows)


def maps_of(number: int, task: TaskExplanation) -> Iterator[Chart]:
    """Yield a chart for each map of a task's features."""
    for place, one in enumerate(task.maps):
        name = f"Features of a task of client {task.client}, {one.name}"
        note = (
            "Open circles are support examples, the others queries. Each class has its colour and shape."
        )
        if one.separation is not None:
            note += f" {100 * one.separation:.0f}% of the features' variance lies between classes."
        axes = [f"principal component {i + 1} ({100 * s:.0f}%)" for i, s in enumerate(one.shares)]
        # Coordinates have no unit.
        yield Chart(f"map-{number}-{place}", name, axes[0], axes[1], _clouds(one), note, ticks=False)


def _clouds(one: FeatureMap) -> list[Series]:
    found = []
    for place, label in enumerate(sorted(set(one.labels))[:MOST_CLASSES]):
        for first, end, mark in ((0, one.queries, "points"), (one.queries, len(one.labels), "rings")):
            own = [i for i in range(first, end) if one.labels[i] == label]
            if own:
                xs, ys = ([axis[i] for i in own] for axis in (one.x, one.y))
                name = f"class {label}" + (", support" if mark == "rings" else "")
                found.append(Series(name, xs, ys, mark=mark, colour=place))  # type: ignore[arg-type]
    return found


def layer_charts(tasks: Sequence[TaskExplanation], steps: int) -> Iterator[Chart]:
    """Yield charts of the change and the similarity of each layer, over the tasks."""
    after = f"{steps} adaptation step{'' if steps == 1 else 's'}"
    ends = f"Means over {len(tasks)} tasks; bars are the lowest and the highest."
    changes = _by_layer([task.changes for task in tasks])
    if changes:
        note = f"Norm of the change in {after}, as a part of the norm of the weights. {ends}"
        yield _layers(
            "layer-changes", "Change of each layer's weights", "relative change", changes, note
        )
    alike = _by_layer([task.similarities for task in tasks])
    if alike:
        note = (
            f"Linear CKA of each layer's outputs before and after {after}, on a task's examples: 1 if "
            f"they are equal up to rotation and scale, less if the layer computes something else. {ends}"
        )
        chart = _layers("layer-similarity", "Similarity of each layer's outputs", "CKA", alike, note)
        yield chart


def _by_layer(tasks: Sequence[Sequence[Layer]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for layers in tasks:
        for layer in layers:
            if layer.value is not None:
                found.setdefault(layer.name, []).append(layer.value)
    return found


def _layers(key: str, title: str, unit: str, layers: dict[str, list[float]], note: str) -> Chart:
    names = _thinned([*layers])
    series = Series(
        unit,
        [*range(len(names))],
        [fmean(layers[name]) for name in names],
        [min(layers[name]) for name in names],
        [max(layers[name]) for name in names],
        mark="points",
    )
    return Chart(key, title, unit, "layer", [series], note, labels=names, flip=True)


def _thinned(names: list[str]) -> list[str]:
    if len(names) <= MOST_LAYERS:
        return names
    last = len(names) - 1
    return [names[round(i * last / (MOST_LAYERS - 1))] for i in range(MOST_LAYERS)]


def rates_chart(rates: Sequence[TensorRates], initial: float | None) -> Chart | Heatmap | None:
    """Return a chart of learned rates by tensor, and by step where they differ."""
    known = {one.name: one.steps for one in rates if one.steps}
    names = _thinned([*known])
    if not names:
        return None
    title, started = "Learned inner learning rates", "" if initial is None else f" of {initial:g}"
    steps = max(len(known[name]) for name in names)
    if steps > 1:
        base = initial or 0.0
        values = [[rate.mean - base for rate in known[name]] for name in names]
        rows = [[*row, *[None] * (steps - len(row))] for row in values]
        unit = "rate" if initial is None else f"rate − {initial:g}"
        note = f"How far each tensor's rate in each inner step has moved from its start{started}."
        columns = [*range(1, steps + 1)]
        return Heatmap("rates", title, "inner step", "tensor", columns, names, rows, unit, note)
    first = [known[name][0] for name in names]
    series = Series(
        "rate",
        [*range(len(names))],
        [one.mean for one in first],
        [one.low for one in first],
        [one.high for one in first],
        mark="points",
    )
    note = f"Means over each tensor's weights; bars hold eight in ten. They started at a rate{started}."
    return Chart(
        "rates",
        title,
        "learning rate",
        "tensor",
        [series],
        note,
        labels=names,
        flip=True,
        line=initial,
        line_name="at the start",
    )


def memory_charts(number: int, client: int, memory: Memory) -> Iterator[Heatmap]:
    """Yield heatmaps of the writes and the reads of a memory in a task."""
    for key, values in (("writes", memory.writes), ("reads", memory.reads)):
        if values and memory.slots:
            yield Heatmap(
                f"memory-{key}-{number}",
                f"{key.capitalize()} of the memory in a task of client {client}",
                "slot, of those that are written to",
                "step",
                [*range(1, len(memory.slots) + 1)],
                memory.steps,
                values,
                "weight",
                "A row is an example, in the order in which it is shown. Each query comes after the "
                "support examples alone.",
                signed=False,
            )
