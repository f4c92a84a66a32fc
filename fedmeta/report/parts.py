"""The report of one run, or of one comparison."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from fedmeta.comparison.record import CompareRecord
from fedmeta.files import one_line
from fedmeta.report.arms import Arms, at_step, interval
from fedmeta.report.measured import main_measure, said_mean
from fedmeta.report.page import Part
from fedmeta.report.read import CompareFiles, RunFiles, number
from fedmeta.report.sections import sections_of_comparison, sections_of_run
from fedmeta.report.sections.communication import sent_bytes
from fedmeta.report.sections.learning import evaluations
from fedmeta.report.tables import Bytes, shown

Kind = Literal["run", "comparison"]


def run_part(run: RunFiles, key: str) -> Part:
    """Return the report of a run in any state.

    Args:
        run: Its files.
        key: The part's place in the page.
    """
    return Part(
        name=run.name,
        kind="run",
        status=run.status,
        said=_said(run),
        problem=run.problem or "",
        failure=_failure(run),
        results=headline(run),
        sections=sections_of_run(run),
        key=key,
    )


def unreadable_part(path: Path, kind: Kind, key: str, error: Exception) -> Part:
    """Return the report of a folder that an unexpected error kept from being read."""
    problem = f"it cannot be read ({type(error).__name__}): {one_line(error, 200)}"
    return Part(path.name, kind, "unreadable", problem=problem, key=key)


def headline(run: RunFiles) -> list[tuple[str, str]]:
    """Return the key numbers: results of the final test, or the latest ones before there is a test."""
    measure = main_measure(run)
    found = _tested(run, measure) if run.final else _latest(run, measure)
    total = f" of {run.config.rounds:,}" if run.config else ""
    found.append(("rounds", f"{len(run.metrics):,}{total}"))
    sent = sent_bytes(run.metrics)
    if sent and sent[-1]:
        found.append(("sent, both ways", shown(Bytes(sent[-1]))))
    seconds = number(run.info, "wall_seconds")
    if seconds is not None:
        found.append(("wall time", f"{seconds:,.1f} s"))
    return found


def _tested(run: RunFiles, measure: str) -> list[tuple[str, str]]:
    found = []
    for row in dict.fromkeys((0, len(run.final) - 1)):
        at = run.final[row]
        when = "before adaptation" if at["step"] == 0 else f"after {at['step']:g} steps"
        found.append((f"final {measure}, test clients, {when}", said_mean(at, measure)))
    return found


def _latest(run: RunFiles, measure: str) -> list[tuple[str, str]]:
    """Return the latest results of training tasks and of held-out clients, each with its round."""
    found = []
    for field, name in (("test", "test clients"), ("evaluation", "validation clients")):
        for round_, row in evaluations(run.metrics, field)[-1:]:
            about = f"latest {measure}, {name}, after {row['step']:g} steps, round {round_:,}"
            found.append((about, said_mean(row, measure)))
    trained = [row for row in run.metrics if number(row, measure) is not None]
    for last in trained[-1:]:
        about = f"latest {measure}, training tasks, after adaptation, round {last['round']:,}"
        found.append((about, shown(number(last, measure))))
    return found


def _failure(run: RunFiles) -> str:
    return str(run.info.get("error") or "run.json gives no reason") if run.status == "failed" else ""


def _said(run: RunFiles) -> str:
    config = run.config
    if config is None:
        return ""
    held_out = config.validation_clients + config.test_clients
    what = f"{config.algorithm} on {config.task}, {config.training} training: {config.clients} clients"
    return f"{what}, {held_out} of them held out, {config.cohort} a round, seed {config.seed}."


def compare_part(
    files: CompareFiles, key: str, beside: Path, readable: Callable[[Path], bool] = lambda _: True
) -> Part:
    """Return the report of a comparison.

    Args:
        files: Its files.
        key: The part's place in the page.
        beside: Folder of the page, from which links to the runs lead.
        readable: Whether a run's folder may be read and linked to.
    """
    if files.record is None:
        return Part(files.name, "comparison", files.status, problem=files.problem or "", key=key)
    arms = Arms(files.record, files.path, beside, readable)
    return Part(
        name=files.name,
        kind="comparison",
        status=files.status,
        said=_said_comparison(files.record),
        failure="; ".join(f"{arm.name}: {arm.error}" for arm in arms.all if arm.error),
        results=_arms_headline(arms),
        sections=sections_of_comparison(arms),
        key=key,
    )


def _said_comparison(record: CompareRecord) -> str:
    arms = ", ".join(arm.name for arm in record.arms)
    seeds = record.seeds
    count = f"{len(seeds)} seed{'s' if len(seeds) != 1 else ''} ({', '.join(map(str, seeds))})"
    return f"{record.experiment}: {arms}; {count} each."


def _arms_headline(arms: Arms) -> list[tuple[str, str]]:
    """Return each arm's result after the last adaptation step."""
    found = []
    for arm in arms.all:
        at = at_step(arm.final, arms.step)
        name = f"{arm.name}, {arms.measure} after {arms.step} steps"
        found.append((name, shown(interval(at)) if at else arm.status))
    return found
