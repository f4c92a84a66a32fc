"""Where results come from: command, seed, versions and config."""

from typing_extensions import override

from fedmeta.config import to_toml
from fedmeta.report.arms import Arms
from fedmeta.report.page import Folded, Section, described
from fedmeta.report.read import RunFiles
from fedmeta.report.sections import ReportSection


class About(ReportSection):
    """What was run or compared; it comes last, after the results."""

    order = 120

    @staticmethod
    @override
    def of_run(run: RunFiles) -> Section:
        config = [Folded("The resolved config, every key", to_toml(run.config))] if run.config else []
        return Section(key="what", title="What was run", facts=facts_of(run), folded=config)

    @staticmethod
    @override
    def of_comparison(arms: Arms) -> Section:
        seeds = ("Seeds", ", ".join(map(str, arms.record.seeds)))
        facts = described(dict(arms.record), seeds, arms.path)
        return Section(key="what", title="What was compared", facts=facts)


def facts_of(run: RunFiles) -> list[tuple[str, str]]:
    """Return where a run's results come from."""
    facts = described(run.info, ("Seed", run.info.get("seed")), run.path)
    if run.config and run.config.description:
        facts.insert(1, ("What it shows", run.config.description))
    return facts
