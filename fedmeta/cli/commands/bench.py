"""`fedmeta bench`."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from fedmeta.cli.commands import Json
from fedmeta.errors import FedmetaError
from fedmeta.files import to_json

if TYPE_CHECKING:
    from fedmeta.bench import Result

ALL = "all"

Name = Annotated[
    str, typer.Argument(metavar="NAME|all", help="A case from the list above, or all of them.")
]
Runs = Annotated[
    int | None,
    typer.Option(min=1, help="Samples per side; default: what the case needs."),
]


def bench(name: Name, runs: Runs = None, as_json: Json = False) -> None:
    """Benchmark fedmeta against the usual implementations.

    Both sides run in one process and take turns.

    Cases:

      kernels: gradients by native kernels, in every usual setting

      maml-sinusoid: a MAML meta-gradient of many small tasks

      maml-sinusoid-compiled: the same with compile = true

      maml-conv4: a MAML meta-gradient of Conv4; one process, and two

      grid-overhead: message overhead, in a round of 1,000 clients that do nothing

      population: 100,000 registered clients; start-up time and memory

      clients: rounds with cohorts of 10 to 100,000 clients; slope and memory

      engines: the same rounds on engine vector and on Ray

      chain-cost: gas of records and claims, and the time of a round of 10,000 participants

      chain-round: what recording and paying on Anvil adds to a round

    Figures are medians, with quartiles in brackets. Ratios can be compared between machines,
    milliseconds cannot. A missed goal is reported, but the exit code stays 0.
    """
    from fedmeta.bench import find_cases

    rows = []
    failures = 0
    for case in find_cases(name):
        sys.stderr.write(f"fedmeta: measuring {case.name}\n")
        try:
            result = case.measure(runs)
        except FedmetaError as error:
            if name != ALL:
                raise
            # This machine may lack what one case needs, such as a compiler; the others can still run.
            failures += 1
            rows.append({"case": case.name, "error": str(error)})
            sys.stderr.write(f"fedmeta: {case.name}: {error}\n")
            continue
        rows.append(result.to_json())
        if not as_json:
            typer.echo(_text(result) + "\n")
    if as_json:
        typer.echo(to_json({"cases": rows} if name == ALL else rows[0]))
    if failures:
        raise typer.Exit(1)


def _text(result: "Result") -> str:
    lines = [f"{result.case}: {result.measures}"]
    sides = {"fedmeta": result.ours_ms, **result.others_ms}
    if result.rival and result.rival_ms is not None:
        sides = {"fedmeta": result.ours_ms, result.rival: result.rival_ms, **result.others_ms}
    lines += [f"  {name:44} {milliseconds:10.3f} ms" for name, milliseconds in sides.items()]
    lines += [f"  {name:44} {value:10.3f}" for name, value in result.details.items()]
    lines += [f"  {line}" for line in result.drawing]
    for goal in result.goals:
        low_high = f" [{goal.spread[0]:.2f} .. {goal.spread[1]:.2f}]" if goal.spread else ""
        verdict = "met" if goal.met else "MISSED"
        lines.append(
            f"  {goal.what:44} {goal.value:10.2f}{low_high}   {verdict}: {goal.sense} {goal.bound:g}"
        )
    lines.append(f"  medians of {result.runs}, {result.threads} thread(s); {result.machine}")
    return "\n".join(lines)
