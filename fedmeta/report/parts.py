"""All that a report says of one run, or of one comparison."""

from pathlib import Path

from fedmeta.comparison.record import CompareRecord
from fedmeta.report.arms import Arms, at_step, interval
from fedmeta.report.measured import main_measure, said_mean
from fedmeta.report.page import Part
from fedmeta.report.read import CompareFiles, RunFiles, number
from fedmeta.report.sections import sections_of_comparison, sections_of_run
from fedmeta.report.sections.communication import sent_bytes
from fedmeta.report.tables import Bytes, shown


def run_part(run: RunFiles, key: str) -> Part:
    """Return all that the report says of a run, in whatever state it is.

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


def headline(run: RunFiles) -> list[tuple[str, str]]:
    """Return the few numbers that a reader looks for first."""
    measure = main_measure(run)
    found = []
    if run.final:
        for row in dict.fromkeys((0, len(run.final) - 1)):
            at = run.final[row]
            when = "before adaptation" if at["step"] == 0 else f"after {at['step']:g} steps"
            found.append((f"{measure}, test clients, {when}", said_mean(at, measure)))
    total = f" of {run.config.rounds:,}" if run.config else ""
    found.append(("rounds", f"{len(run.metrics):,}{total}"))
    sent = sent_bytes(run.metrics)
    if sent and sent[-1]:
        found.append(("sent, both ways", shown(Bytes(sent[-1]))))
    seconds = number(run.info, "wall_seconds")
    if seconds is not None:
        found.append(("wall time", f"{seconds:,.1f} s"))
    return found


def _failure(run: RunFiles) -> str:
    return str(run.info.get("error") or "It does not say why") if run.status == "failed" else ""


def _said(run: RunFiles) -> str:
    config = run.config
    if config is None:
        return ""
    held_out = config.validation_clients + config.test_clients
    what = f"{config.algorithm} on {config.task}, {config.training} training: {config.clients} clients"
    return f"{what}, {held_out} of them held out, {config.cohort} a round, seed {config.seed}."


def compare_part(files: CompareFiles, key: str, beside: Path) -> Part:
    """Return all that the report says of a comparison.

    Args:
        files: Its files.
        key: The part's place in the page.
        beside: Folder of the page, from which links to the runs lead.
    """
    if files.record is None:
        return Part(files.name, "comparison", files.status, problem=files.problem or "", key=key)
    arms = Arms(files.record, files.path, beside)
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
